"""Imports inside musictrain only go down, and neighbours do not know each other (imports inside functions count too)."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FLOORS = {
    **dict.fromkeys(("notes", "suggestions", "runs", "stopping", "health", "curriculum"), 0),
    **dict.fromkeys(("data", "models", "losses", "distillation_loss", "generation", "optim", "metrics", "listening", "contract"), 1),
    **dict.fromkeys(("running_sums", "batch_seed", "micro_batches", "vitals", "speed", "compiling", "dashboard", "notifications"), 1),
    **dict.fromkeys(("module", "datamodule", "strategies", "checkpoints", "loggers"), 2),
    **dict.fromkeys(("measuring_module", "sampling", "rolling_back", "distillation"), 2),
    "callbacks": 3,
    **dict.fromkeys(("cli", "search", "stages", "replay"), 4),
    **dict.fromkeys(("__init__", "__main__"), 5),
}
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric", "lightning_utilities"}

SIDEWAYS = {
    # (who, whom) on the same floor, each with its reason.
    ("runs", "notes"): "runs keep samples",
    ("runs", "suggestions"): "a run name with a typo",
    ("notes", "suggestions"): "a word is a word",
    ("stopping", "suggestions"): "a setting with a typo",
    ("health", "suggestions"): "a setting with a typo",
    ("listening", "data"): "samples are written as MIDI too",
    ("generation", "data"): "the grammar of a tokenizer says which tokens may come next",
    ("metrics", "data"): "a corpus is the reference",
    ("metrics", "listening"): "bars are bars",
    ("compiling", "data"): "caches lie together",
    ("optim", "models"): "how deep a weight lies is told by the block that it lies in",
    ("distillation_loss", "losses"): "the tokens that came next are half of it",
    ("module", "measuring_module"): "what is trained is measured too",
    ("module", "distillation"): "a teacher's opinion is a part of the loss",
    ("distillation", "checkpoints"): "a teacher is a stored version",
    ("curriculum", "suggestions"): "a setting with a typo",
    ("sampling", "checkpoints"): "what is played from is a network put together, or the best version",
    ("rolling_back", "checkpoints"): "what is gone back to is a stored version",
    ("__main__", "__init__"): "the program is the package",
    **{("cli", door): "the command line opens the other doors" for door in ("search", "stages", "replay")},
}
ONLY = {
    # Rooms that may use less than their floor offers.
    "callbacks": {
        *("notes", "suggestions", "runs", "data", "generation", "metrics", "listening", "checkpoints", "batch_seed", "speed"),
        *("stopping", "health", "curriculum", "optim", "vitals", "dashboard", "notifications", "loggers", "sampling", "rolling_back"),
    },
    # They draw and tell what stands in the run folder; neither needs torch.
    "dashboard": {"notes", "suggestions", "runs"},
    "notifications": {"suggestions", "runs"},
}
ALLOWED: set[tuple[str, str]] = set()  # (file under musictrain/, imported module): an exception and, beside it, its reason


class Import(NamedTuple):
    line: int
    module: str


def imports_of(source: str, package: str) -> Iterator[Import]:
    """Every module an import statement, `import_module("...")` or `musictrain.name` names; relative ones are resolved against `package`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (Import(node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "musictrain":
            yield Import(node.lineno, f"musictrain.{node.attr}")
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            yield from (Import(node.lineno, a.value) for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def room_of(module: str) -> str:
    """The entry under musictrain/ that a dotted name lies in: `musictrain.data.scores` lies in `data`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOORS else "__init__"


def fault_of_own_import(file: str, room: str, module: str) -> str | None:
    """Why a file in `room` may not import this module of musictrain, or None if it may."""
    target = room_of(module)
    if target == room:
        is_neighbour = room == "callbacks" and module.count(".") > 1 and not file.endswith("__init__.py")
        return "callbacks do not know one another" if is_neighbour else None
    if module == "musictrain" or module.startswith("musictrain.__"):
        return None  # the package itself imports nothing: where it lies and which version it is may be asked from anywhere
    if room in ONLY and target not in ONLY[room]:
        return f"{room} may import only {', '.join(sorted(ONLY[room]))}"
    if FLOORS[target] > FLOORS[room]:
        return f"{room} is on floor {FLOORS[room]}, {target} on floor {FLOORS[target]}: imports go down"
    if FLOORS[target] == FLOORS[room] and (room, target) not in SIDEWAYS:
        return f"{room} and {target} are neighbours on floor {FLOORS[room]}, and neighbours do not know each other"
    return None


def fault_of_foreign_import(room: str, top: str) -> str | None:
    """Why a file in `room` may not import the library `top`, or None if it may."""
    if FLOORS[room] == 0 and top not in sys.stdlib_module_names | {"numpy"}:
        return "floor 0 uses the standard library and numpy only"
    if FLOORS[room] <= 1 and top in LIGHTNING:
        return "floor 1 does without Lightning"
    if room == "dashboard" and top in LIGHTNING | {"torch", "torchmetrics", "miditok"}:
        return "the dashboard reads files and needs neither torch nor Lightning"
    return None


def faults(file: str, source: str) -> Iterator[str]:
    """What breaks the floors in one file, `file` relative to musictrain/: `data/scores.py:12: ...`."""
    path = Path(file)
    room = path.parts[0] if len(path.parts) > 1 else path.stem
    if room not in FLOORS:
        yield f"{file}:1: {room!r} has no floor yet: give it one in FLOORS of tests/house/test_floors.py and in README.md"
        return
    package = ".".join(["musictrain", *path.parts[:-1]])
    for line, module in imports_of(source, package):
        top = module.split(".")[0]
        fault = fault_of_own_import(file, room, module) if top == "musictrain" else fault_of_foreign_import(room, top)
        if fault and (file, module) not in ALLOWED:
            yield f"{file}:{line}: imports {module}, but {fault}"


def test_imports_only_go_down(repository: Path) -> None:
    package = repository / "musictrain"
    files = sorted(package.rglob("*.py"))
    found = [fault for file in files for fault in faults(file.relative_to(package).as_posix(), file.read_text(encoding="utf-8"))]
    assert len(files) > 3, f"found only {files} under {package}"
    assert not found, "\n".join(found)


def test_the_check_finds_what_breaks_the_floors() -> None:
    breaks = {
        ("runs/folder.py", "import torch"): "standard library and numpy",
        ("notes.py", "from musictrain.data import scores"): "imports go down",
        ("models/decoder.py", "import lightning.pytorch as pl"): "without Lightning",
        ("models/decoder.py", "from ..optim import schedules"): "neighbours",
        ("data/corpora.py", "def read():\n    from musictrain import MusicModule"): "imports go down",
        ("callbacks/alerts.py", "from musictrain.module import MusicModule"): "callbacks may import only",
        ("callbacks/alerts.py", "from musictrain.callbacks.recorder import RunRecorder"): "one another",
        ("callbacks/alerts.py", "from .recorder import RunRecorder"): "one another",
        ("dashboard/page.py", "from importlib import import_module\nimport_module('torch')"): "neither torch nor Lightning",
        ("dashboard/page.py", "from musictrain import metrics"): "dashboard may import only",
        ("module.py", "from musictrain.datamodule import MusicDataModule"): "neighbours",
        ("data/corpora.py", "import musictrain\nmusictrain.MusicModule()"): "imports go down",
        ("attic.py", "import os"): "no floor yet",
    }
    for (file, source), reason in breaks.items():
        assert reason in "".join(faults(file, source)), f"{source!r} in {file} was not found"


def test_the_check_lets_good_imports_pass() -> None:
    good = {
        "runs/folder.py": "import json\nimport numpy as np\nfrom musictrain.suggestions import did_you_mean",
        "module.py": "import lightning\nfrom musictrain.losses import nll\nfrom musictrain import __version__",
        "data/tokenizers/remi.py": "from .protocol import Tokenizer\nfrom ..scores import read_notes\nfrom musictrain.notes import Notes",
        "data/reading.py": "import musictrain\nprint(musictrain.__file__)",
        "callbacks/__init__.py": "from musictrain.callbacks.recorder import RunRecorder",
        "callbacks/alerts.py": "from musictrain.checkpoints import manifest\nfrom musictrain import runs",
        "cli/run.py": "from musictrain.callbacks import RunRecorder\nfrom musictrain.search import grid",
        "dashboard/page.py": "from musictrain.runs import folder\nimport matplotlib",
        "__init__.py": "from musictrain.module import MusicModule",
    }
    assert [fault for file, source in good.items() for fault in faults(file, source)] == []
