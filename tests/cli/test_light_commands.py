"""What only looks imports nothing heavy, and help tells only of what there is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from musictrain.cli import doctor
from musictrain.cli.commands import COMMANDS, help_text
from musictrain.cli.recipes import find_config, with_recipes
from tests.cli.tiny import type_command

HEAVY = ("torch", "lightning", "jsonargparse", "matplotlib", "plotly", "pandas", "music21", "miditok")
PROBE = f"""
import sys
from musictrain.cli.commands import main
status = main(sys.argv[1:])
print("heavy:", [name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
raise SystemExit(status)
"""


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ([], 2),
        (["--help"], 0),
        (["--version"], 0),
        (["fitt"], 2),
        (["fit"], 2),
        (["fit", "--config", "chorals"], 2),
        (["doctor"], 0),
        (["doctor", "--json"], 0),
        (["sample", "--help"], 0),
        (["sample", "nowhere"], 2),
        (["resume", "nowhere"], 2),
        (["resume", "--help"], 0),
        (["stages", "--help"], 0),
        (["stages", "--config", "stages-folk-to-chorales", "--dry-run"], 0),
        (["stages", "--config", "nowhere"], 2),
        (["validate", "--run", "nowhere"], 2),
        (["runs"], 0),
        (["runs", "list", "--json"], 0),
        (["runs", "show", "nowhere"], 2),
        (["report", "nowhere"], 2),
        (["watch", "--help"], 0),
        (["watch", "nowhere"], 2),
        (["watch", "--once"], 2),
        (["notify", "--help"], 0),
        (["notify", "nowhere"], 2),
    ],
)
def test_light_commands_import_nothing_heavy(words: list[str], status: int, repository: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run([sys.executable, "-c", PROBE, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "heavy: []"
    assert done.returncode == status, done.stderr


def test_the_module_is_a_program(repository: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "musictrain", "--help"], cwd=repository, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, help_text(), "")


def test_help_names_every_command_in_its_group() -> None:
    lines = help_text().splitlines()
    assert [line.split()[0] for line in lines if line.startswith(("  Start", "  Train"))] == ["Start", "Train"]
    for command in COMMANDS:
        assert any(command.name in line.split() and command.summary in line for line in lines)


def test_recipes_go_by_name_in_every_spelling() -> None:
    path = str(find_config("chorales"))
    assert Path(path).name == "chorales.yaml"
    assert with_recipes(["--config", "chorales", "--config=chorales", "-c", "chorales", "--name", "chorales"]) == [
        "--config",
        path,
        f"--config={path}",
        "-c",
        path,
        "--name",
        "chorales",
    ]


def test_a_file_comes_before_a_recipe_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("chorales").write_text("{}")
    assert find_config("chorales") == Path("chorales")


def test_doctor_tells_people_and_programs_the_same(capsys: Any, tmp_path: Path) -> None:
    status, text, _ = type_command(capsys, "doctor", "--runs", tmp_path)
    assert status == 0
    _, as_json, _ = type_command(capsys, "doctor", "--runs", tmp_path, "--json")
    report = json.loads(as_json)
    assert report["ready"] is True
    assert [finding["what"] for finding in report["findings"]] == [line.split()[1] for line in text.splitlines()[:-1] if "->" not in line]
    assert {"Python", "packages", "CPU", "runs", "cache", "corpus"} <= {finding["what"] for finding in report["findings"]}


def test_doctor_says_what_is_missing_and_what_to_do(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["numpy<0.1", "no-such-package>=3", "wandb; extra == 'wandb'"])
    (tmp_path / "file").touch()
    status, text, _ = type_command(capsys, "doctor", "--runs", tmp_path / "file" / "runs")
    assert status == 1
    assert 'pip install "numpy<0.1"' in text
    assert "no-such-package" in text
    assert "wandb" not in text
    assert "cannot be written" in text
    assert text.splitlines()[-1] == "Missing: numpy<0.1, no-such-package>=3, runs."


@pytest.mark.parametrize("word", ["--jsn", "--js"])
def test_options_of_our_own_are_not_abbreviated(word: str, capsys: Any) -> None:
    status, _, err = type_command(capsys, "doctor", word)
    assert (status, err) == (2, f"error: Unknown option {word}. Did you mean '--json'? See `musictrain doctor --help`.\n")


def test_a_reader_that_has_seen_enough_is_no_error(repository: Path) -> None:
    command = f"{sys.executable} -m musictrain --help | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=repository, capture_output=True, text=True)
    assert done.stdout.startswith("usage: musictrain")
    assert done.stderr == ""
