"""The house's measures: how long a function and a file may be, which names say nothing, and no path of anybody's machine."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

MOST_LINES_OF_A_FUNCTION = 70
MOST_LINES_OF_A_FILE = {"tests": 600}  # a room's laws may stand together
MOST_LINES_OF_ANOTHER_FILE = 420
NAMES_THAT_SAY_NOTHING = {"utils", "util", "core", "common", "helpers", "helper", "manager", "misc"}
TEXT_FILES = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".ipynb", ".json", ".html", ".js", ""}
NOT_OURS = {"build", "dist", "runs", "listen", "lightning_logs", "wandb", "__pycache__"}
MACHINE_PATH = re.compile(r"(?<![\w.~$}/-])/(?:work|root|tmp|home|opt|Users)/")


def files_of(repository: Path, folder: Path | None = None) -> Iterator[Path]:
    """Every text file of the repository; what git ignores and hidden folders (but for .ci) are left out."""
    for path in sorted((folder or repository).iterdir()):
        hidden = path.name.startswith(".") and path.name not in {".ci", ".gitignore"}
        generated = path.parent == repository and path.name in NOT_OURS
        if hidden or generated or path.name == "__pycache__" or path.name.endswith(".egg-info"):
            continue
        if path.is_dir():
            yield from files_of(repository, path)
        elif path.suffix in TEXT_FILES:
            yield path


def long_functions(source: str) -> Iterator[tuple[str, int]]:
    """Name and number of lines of every function that is too long."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MOST_LINES_OF_A_FUNCTION:
                yield node.name, lines


@pytest.fixture(scope="module")
def python_files(repository: Path) -> list[Path]:
    return [path for path in files_of(repository) if path.suffix == ".py"]


def test_functions_are_short(python_files: list[Path]) -> None:
    found = [(path.name, *fault) for path in python_files for fault in long_functions(path.read_text(encoding="utf-8"))]
    assert not found, f"functions over {MOST_LINES_OF_A_FUNCTION} lines: {found}"
    assert list(long_functions("def f():\n" + "    x = 1\n" * MOST_LINES_OF_A_FUNCTION)) == [("f", MOST_LINES_OF_A_FUNCTION + 1)]


def test_files_are_about_one_idea(python_files: list[Path], repository: Path) -> None:
    lengths = {path.relative_to(repository): len(path.read_text(encoding="utf-8").splitlines()) for path in python_files}
    most = {path: MOST_LINES_OF_A_FILE.get(path.parts[0], MOST_LINES_OF_ANOTHER_FILE) for path in lengths}
    assert len(lengths) > 5
    assert {str(path): lines for path, lines in lengths.items() if lines > most[path]} == {}


def test_names_name_the_idea(repository: Path) -> None:
    parts = {part for path in files_of(repository) for part in (*path.relative_to(repository).parts[:-1], path.stem)}
    assert not parts & NAMES_THAT_SAY_NOTHING
    assert "musictrain" in parts


def test_no_path_of_one_machine_is_written_down(repository: Path) -> None:
    found = [
        f"{path.relative_to(repository)}:{number}: {line.strip()}"
        for path in files_of(repository)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not found, "\n".join(found)
    assert MACHINE_PATH.search("open('/" + "home/ada/x.mid')")
    assert not MACHINE_PATH.search("https://example.org/" + "home/x")
