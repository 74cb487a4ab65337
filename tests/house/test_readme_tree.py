"""The tree in README.md names what is there, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GENERATED = {"build", "dist", "runs", "listen", "lightning_logs", "wandb", "__pycache__"}


def tree_of_readme(text: str) -> set[str]:
    """Every path of the tree, such as `musictrain/data/`: two spaces a level, a path, its explanation after two spaces or more."""
    block = text.split("## The tree", 1)[1].split("```", 2)[1]
    paths: list[str] = []
    parents: list[str] = []
    for line in filter(str.strip, block.splitlines()[1:]):
        level = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"\s{2,}", line.strip())[0].split()
        paths += ["".join([*parents[:level], name]) for name in names]
        parents = [*parents[:level], names[0]]
    return set(paths)


def tree_of_files(repository: Path) -> set[str]:
    """Top-level folders, every entry of musictrain/ one level deep, and the recipes."""
    folders = {
        f"{path.name}/" for path in repository.iterdir() if path.is_dir() and path.name not in GENERATED and not path.name.startswith(".")
    }
    package = {
        f"musictrain/{path.name}{'/' if path.is_dir() else ''}"
        for path in (repository / "musictrain").iterdir()
        if (path.is_dir() and any(path.rglob("*.py"))) or (path.suffix == ".py" and not path.name.startswith("__"))
    }
    recipes = {f"configs/{path.name}" for path in (repository / "configs").iterdir() if path.is_file()}
    return {folder for folder in folders if not folder.endswith(".egg-info/")} | package | recipes


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text(encoding="utf-8")


def test_everything_that_is_there_is_named(readme: str, repository: Path) -> None:
    assert sorted(tree_of_files(repository) - tree_of_readme(readme)) == []


def test_everything_that_is_named_is_there(readme: str, repository: Path) -> None:
    named = tree_of_readme(readme)
    assert len(named) > 10
    assert sorted(path for path in named if not (repository / path).exists() or (repository / path).is_dir() != path.endswith("/")) == []


def test_the_tree_is_read_level_by_level() -> None:
    text = "# x\n## The tree\n```text\na/        one\n  b.py c.py    two\n  d/  three\n    e.py  four\nMakefile  five\n```\n"
    assert tree_of_readme(text) == {"a/", "a/b.py", "a/c.py", "a/d/", "a/d/e.py", "Makefile"}
