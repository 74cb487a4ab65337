"""env.json repeats a run and gives nothing away."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from musictrain.runs.environment import cpu_count, describe_environment, git_state, without_secrets


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_record_is_plain_json_without_environment_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOME_SERVICE_PASSWORD", "hunter2-from-the-environment")
    record = describe_environment(command=["musictrain", "fit"], seeds={"everything": 1}, fingerprints={"tokenizer": "ab"}, source=tmp_path)
    text = json.dumps(record)
    assert json.loads(text) == record
    assert "hunter2" not in text
    assert record["seeds"] == {"everything": 1}
    assert record["packages"]["numpy"]
    assert record["machine"]["cpu_count"] == cpu_count() >= 1


@pytest.mark.parametrize(
    ("command", "recorded"),
    [
        (["--api-key", "abc", "--lr", "1"], ["--api-key", "***", "--lr", "1"]),
        (["--trainer.logger.init_args.API_KEY=abc"], ["--trainer.logger.init_args.API_KEY=***"]),
        (["--hf_token", "abc", "x"], ["--hf_token", "***", "x"]),
        (["--data.tokenizer", "REMI", "--max_tokens", "3"], ["--data.tokenizer", "REMI", "--max_tokens", "3"]),
        (["passwords.yaml"], ["passwords.yaml"]),
    ],
)
def test_secrets_are_blanked_out_of_the_command_line(command: list[str], recorded: list[str]) -> None:
    assert without_secrets(command) == recorded


def test_git_state_holds_the_commit_and_the_uncommitted_changes(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    git(tmp_path, "init")
    (tmp_path / "a.txt").write_text("one\n")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-m", "first")
    clean = git_state(tmp_path)
    assert clean is not None
    assert (len(clean["commit"]), clean["dirty"], clean["diff"]) == (40, False, "")
    (tmp_path / "a.txt").write_text("two\n")
    changed = git_state(tmp_path)
    assert changed is not None
    assert changed["dirty"]
    assert "+two" in changed["diff"]
