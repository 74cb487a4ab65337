"""make explains itself, installs once, and says what to do about a Python that will not do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(repository: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # These tests run under `make test` themselves, whose variables are not meant for this make.
    theirs = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ARGS", "VENV", "PYTHON", "WORKERS"}
    environment = {name: value for name, value in os.environ.items() if name not in theirs}
    return subprocess.run(["make", *words], cwd=repository, env=environment, capture_output=True, text=True, timeout=300, check=False)


def fake_python(folder: Path, body: str) -> Path:
    """A program that answers like an interpreter of another kind."""
    program = folder / "python-of-another-kind"
    program.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    program.chmod(0o755)
    return program


def test_make_alone_lists_every_target(repository: Path) -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (repository / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert phony
    listed = make(repository).stdout
    for target in phony[1].split():
        assert re.search(rf"make {target} +\w", listed), f"{target} is not explained"


def test_a_missing_python_is_named(repository: Path, tmp_path: Path) -> None:
    result = make(repository, "train", "PYTHON=no-such-python", f"VENV={tmp_path}/venv")
    assert result.returncode == 2
    assert "no 'no-such-python' on this machine. Install Python 3.11 or newer" in result.stdout


def test_an_old_python_is_named_with_its_version(repository: Path, tmp_path: Path) -> None:
    old = fake_python(tmp_path, 'if [ "$1" = "-V" ]; then echo "Python 3.8.2"; else exit 1; fi')
    result = make(repository, "test", f"PYTHON={old}", f"VENV={tmp_path}/venv")
    assert result.returncode == 2
    assert "is Python 3.8.2, and musictrain needs Python 3.11 or newer" in result.stdout


def test_a_python_without_venv_is_named(repository: Path, tmp_path: Path) -> None:
    bare = fake_python(tmp_path, 'case "$2" in *ensurepip*) exit 1;; esac')
    result = make(repository, "test", f"PYTHON={bare}", f"VENV={tmp_path}/venv")
    assert result.returncode == 2
    assert "apt install python3-venv" in result.stdout


def test_an_installed_environment_is_not_installed_again(repository: Path, tmp_path: Path) -> None:
    for stamp in (".created", ".installed", ".installed-dev"):
        (tmp_path / stamp).touch()
    again = make(repository, "--dry-run", "train", f"VENV={tmp_path}", "ARGS=--trainer.max_steps 3").stdout
    assert again.strip() == f"{tmp_path}/bin/python -m musictrain fit --config configs/chorales.yaml --trainer.max_steps 3"
    (tmp_path / ".installed").unlink()
    assert "pip install" in make(repository, "--dry-run", "train", f"VENV={tmp_path}", f"PYTHON={sys.executable}").stdout


@pytest.mark.parametrize(("target", "choice"), [("test", ' -m "not slow"'), ("test-all", "")])
def test_tests_run_in_two_processes_or_as_many_as_one_says(target: str, choice: str, repository: Path, tmp_path: Path) -> None:
    for stamp in (".created", ".installed", ".installed-dev"):
        (tmp_path / stamp).touch()
    for words, workers in (([], 2), (["WORKERS=0"], 0)):
        typed = make(repository, "--dry-run", target, *words, f"VENV={tmp_path}", "ARGS=-k pianoroll").stdout.strip()
        assert typed == f"{tmp_path}/bin/python -m pytest --numprocesses {workers} --dist loadfile{choice} -k pianoroll"


def test_changed_pins_are_installed(repository: Path, tmp_path: Path) -> None:
    for stamp in (".created", ".installed", ".installed-dev"):
        (tmp_path / stamp).touch()
    assert "pip install" in make(repository, "--dry-run", "--what-if=constraints.txt", "test", f"VENV={tmp_path}").stdout
    assert "pip install" in make(repository, "--dry-run", "--what-if=pyproject.toml", "train", f"VENV={tmp_path}").stdout


def test_every_package_we_name_is_pinned_exactly(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    wanted += [package for extra in project["project"]["optional-dependencies"].values() for package in extra]
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==")[0] for line in lines[1:]]
    named = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=]", package)[0]).lower() for package in wanted}
    assert named - {project["project"]["name"]} <= set(pins)
    assert lines[0].startswith("#")
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines[1:])
    assert pins == sorted(pins)
