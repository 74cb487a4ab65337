"""The wheel works away from the checkout: it carries the recipes, and the program finds them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(*words: str, folder: Path, **environment: str) -> str:
    """What a command prints; its complaints if it fails."""
    result = subprocess.run(words, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, f"{' '.join(words)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed and nothing else of the project."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist"), folder=repository)
    (wheel,) = (folder / "dist").glob("*.whl")
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(folder / "site"),
        str(wheel),
        folder=folder,
    )
    return folder


def python(installed: Path, code: str) -> str:
    return run(sys.executable, "-c", code, folder=installed, PYTHONPATH=str(installed / "site"))


def test_the_wheel_is_what_is_imported(installed: Path) -> None:
    assert python(installed, "import musictrain; print(musictrain.__file__)").startswith(str(installed))


def test_the_program_runs_outside_the_checkout(installed: Path) -> None:
    assert "fit" in run(sys.executable, "-m", "musictrain", "--help", folder=installed, PYTHONPATH=str(installed / "site"))
    assert (installed / "site" / "bin" / "musictrain").is_file()


def test_shipped_recipes_are_found_by_name(installed: Path, repository: Path) -> None:
    code = "from musictrain.cli.recipes import protocols, recipes\n"
    code += "print(*(f'{name}={path}' for name, path in (recipes() | protocols()).items()), sep='\\n')"
    found = python(installed, code)
    by_name = dict(line.split("=", 1) for line in found.split())
    assert sorted(by_name) == sorted(path.stem for path in (repository / "configs").glob("*.yaml"))
    assert "chorales" in by_name
    assert all(path.startswith(str(installed)) for path in by_name.values())


def test_the_licence_and_the_type_marker_travel_along(installed: Path) -> None:
    site = installed / "site"
    assert (site / "musictrain" / "py.typed").is_file()
    assert [path.name for path in site.glob("musictrain-*.dist-info/licenses/*")] == ["LICENSE"]
    assert not (site / "tests").exists()
