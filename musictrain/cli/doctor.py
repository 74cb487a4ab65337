"""``doctor``: what this machine has and lacks, in plain words. It looks at files and versions and imports nothing heavy."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from musictrain.cli.exits import FAILED, FINISHED
from musictrain.cli.options import CommandParser
from musictrain.cli.recipes import recipes
from musictrain.runs.environment import cpu_count, memory_gib, package_versions

OLDEST_PYTHON = (3, 11)
LEAST_MEMORY_GIB = 4.0
LEAST_DISK_GIB = 2.0
FEWEST_CHORALES = 400
SHOWN_PACKAGES = ("torch", "lightning", "symusic", "miditok", "music21")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        what: its name.
        state: ``ok``; ``note``, which can be lived with; or ``missing``, which cannot.
        text: what was found.
        advice: what to do about it; empty if nothing.
    """

    what: str
    state: str
    text: str
    advice: str = ""


def run(command: str, arguments: list[str]) -> int:
    """Look at everything and report; 0 if nothing that is needed is missing, else 1."""
    options = parser().parse_args(arguments)
    findings = [finding for check in checks(options.runs) for finding in check()]
    print(as_json(findings) if options.json else as_text(findings))
    return FAILED if any(finding.state == "missing" for finding in findings) else FINISHED


def parser() -> argparse.ArgumentParser:
    """The options of ``doctor``."""
    parser = CommandParser("doctor", "Say in plain words what this machine has and lacks. No network is needed.")
    parser.add_argument("--json", action="store_true", help="the same for programs")
    return parser


def checks(runs_dir: Path) -> list[Callable[[], Iterator[Finding]]]:
    """Everything that is looked at, in the order of the report."""
    return [
        check_python,
        check_packages,
        check_processor,
        check_gpu,
        check_memory,
        lambda: check_folder("runs", runs_dir),
        lambda: check_folder("cache", _cache_dir()),
        check_corpus,
        check_fonts,
        check_recipes,
    ]


def check_python() -> Iterator[Finding]:
    """Its version."""
    fine = sys.version_info >= OLDEST_PYTHON
    advice = "" if fine else "Make an environment with Python 3.11 or newer."
    yield Finding("Python", "ok" if fine else "missing", f"{platform.python_version()} on {platform.platform(terse=True)}", advice)


def check_packages() -> Iterator[Finding]:
    """Whether everything musictrain requires is installed, in a version it can use."""
    try:
        required = metadata.requires("musictrain") or []
    except metadata.PackageNotFoundError:
        yield Finding("packages", "missing", "musictrain itself is not installed", "In the checkout: pip install -e .")
        return
    unmet = [problem for text in required if (problem := unmet_requirement(text)) is not None]
    for name, text in unmet:
        yield Finding(name, "missing", text, f'pip install "{name}" (or `make env` in a checkout)')
    if not unmet:
        versions = package_versions(SHOWN_PACKAGES)
        yield Finding("packages", "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))


def unmet_requirement(text: str) -> tuple[str, str] | None:
    """What to install and what is wrong, for a requirement that is not met; None for one that is met or optional.

    >>> unmet_requirement("numpy>=1.0"), unmet_requirement("wandb>=0.19; extra == 'wandb'")
    (None, None)
    >>> unmet_requirement("numpy<0.1")[0]
    'numpy<0.1'
    """
    from packaging.requirements import Requirement

    requirement = Requirement(text)
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    version = package_versions([requirement.name])[requirement.name]
    if version is None:
        return f"{requirement.name}{requirement.specifier}", "not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name}{requirement.specifier}", f"version {version} is installed, {requirement.specifier} is needed"
    return None


def check_processor() -> Iterator[Finding]:
    """Cores, and whether bfloat16 is fast on them."""
    flag = next((name for name in ("amx_bf16", "avx512_bf16", "bf16") if name in cpu_flags()), None)
    cores = f"{cpu_count()} core{'s' if cpu_count() > 1 else ''} of a {platform.machine()} processor"
    if flag:
        yield Finding("CPU", "ok", f"{cores}, bfloat16 in hardware ({flag}): precision auto is bf16-mixed, twice as fast as 32 bits")
    else:
        yield Finding("CPU", "note", f"{cores}, no bfloat16 instructions found: precision auto is 32 bits")


def cpu_flags() -> set[str]:
    """The instruction sets Linux reports; empty where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.partition(":")[2].split()}


def check_gpu() -> Iterator[Finding]:
    """Whether there is a GPU, and whether the installed torch can use it."""
    build = package_versions(["torch"])["torch"] or ""
    names = gpu_names()
    if not names:
        yield Finding("GPU", "note", "none found: training uses the CPU, which is enough for the shipped recipes")
    elif build.endswith("+cpu"):
        yield Finding("GPU", "note", f"{', '.join(names)}, but torch {build} is built for the CPU", "Install torch's CUDA or ROCm build.")
    else:
        yield Finding("GPU", "ok", f"{', '.join(names)} with torch {build}")


def gpu_names() -> list[str]:
    """The GPUs the system's own tools name: NVIDIA's by nvidia-smi, AMD's and Apple's by their presence."""
    if shutil.which("nvidia-smi"):
        try:
            done = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=2)
        except (OSError, subprocess.SubprocessError):
            return []
        return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []
    if Path("/dev/kfd").exists():
        return ["AMD GPU"]
    return ["Apple GPU"] if sys.platform == "darwin" and platform.machine() == "arm64" else []


def check_memory() -> Iterator[Finding]:
    """Main memory."""
    size = memory_gib()
    if size is None:
        yield Finding("memory", "note", "the system does not say how much there is")
    elif size < LEAST_MEMORY_GIB:
        yield Finding("memory", "note", f"{size:.1f} GiB", f"Below {LEAST_MEMORY_GIB:.0f} GiB: use a smaller batch_size or window.")
    else:
        yield Finding("memory", "ok", f"{size:.1f} GiB")


def check_folder(what: str, folder: Path) -> Iterator[Finding]:
    """Whether a folder can be written, and the room on its disk."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            free = shutil.disk_usage(existing).free / 2**30
    except OSError as error:
        option = "--runs DIR or MUSICTRAIN_RUNS" if what == "runs" else "MUSICTRAIN_CACHE"
        yield Finding(what, "missing", f"{folder} cannot be written ({error.strerror})", f"Name another folder with {option}.")
        return
    state, advice = ("ok", "") if free >= LEAST_DISK_GIB else ("note", "Make room: checkpoints and caches need some GiB.")
    yield Finding(what, state, f"{folder} can be written, {free:.1f} GiB free", advice)


def _cache_dir() -> Path:
    from musictrain.data.corpus_store import cache_root

    return cache_root()


def check_corpus() -> Iterator[Finding]:
    """Whether music21 brought its corpus."""
    folder = _package_folder("music21")
    count = len(list((folder / "corpus" / "bach").glob("*.mxl"))) if folder else 0
    if count >= FEWEST_CHORALES:
        yield Finding("corpus", "ok", f"{count} scores of Bach in music21's corpus")
    else:
        advice = "Reinstall it with its corpus: pip install --force-reinstall music21. A folder of your own works without."
        yield Finding("corpus", "note", f"{count} scores of Bach in music21's corpus: `fit --config chorales` will not work", advice)


def check_fonts() -> Iterator[Finding]:
    """Whether matplotlib can write on the piano rolls."""
    folder = _package_folder("matplotlib")
    fine = folder is not None and (folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf").is_file()
    advice = "" if fine else "Reinstall it: pip install --force-reinstall matplotlib"
    yield Finding(
        "fonts", "ok" if fine else "note", "matplotlib's own, for the piano rolls" if fine else "matplotlib's own are gone", advice
    )


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def check_recipes() -> Iterator[Finding]:
    """Whether the shipped configurations are there."""
    names = recipes()
    if names:
        yield Finding("recipes", "ok", f"{', '.join(names)} (musictrain fit --config NAME)")
    else:
        yield Finding("recipes", "missing", "none found beside or inside the package", "Reinstall musictrain.")


def as_text(findings: list[Finding]) -> str:
    """One line for each finding, its advice below it, and what to do next."""
    width = max(len(finding.what) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{_mark(finding.state)}  {finding.what:<{width}}  {finding.text}")
        lines += [" " * (width + 11) + f"-> {finding.advice}"] if finding.advice else []
    missing = [finding.what for finding in findings if finding.state == "missing"]
    last = f"Missing: {', '.join(missing)}." if missing else "All that is needed is here. Next: musictrain fit --config chorales"
    return "\n".join([*lines, last])


def _mark(state: str) -> str:
    colours = {"ok": "32", "note": "33", "missing": "31"}
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return f"\033[{colours[state]}m{state:<7}\033[0m" if coloured else f"{state:<7}"


def as_json(findings: list[Finding]) -> str:
    """The findings for programs."""
    ready = not any(finding.state == "missing" for finding in findings)
    return json.dumps({"ready": ready, "findings": [asdict(finding) for finding in findings]}, indent=2)
