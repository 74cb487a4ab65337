"""checkpoints: looking is instant and touches nothing; keeping says what it did, and loses nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from musictrain.checkpoints.catalog import list_versions, put_aside
from musictrain.checkpoints.lock import FolderLock
from musictrain.checkpoints.storing import load
from musictrain.runs import RunFolder, list_runs
from tests.checkpoints.small_versions import spoil, write_version
from tests.cli.tiny import type_command


@pytest.fixture
def run(runs_dir: Path) -> RunFolder:
    """The finished run: a start, a validation after 3 steps, the end after 6."""
    (found,) = list_runs(runs_dir)
    return found


def checkpoints(capsys: Any, run: RunFolder, action: str, *words: Any) -> tuple[int, str, str]:
    return type_command(capsys, "checkpoints", action, run.name, *words, "--runs", run.path.parent)


def names(run: RunFolder) -> list[str]:
    return sorted(path.name for path in run.checkpoints.glob("*.ckpt*"))


def test_a_list_shows_each_version_with_its_score_and_marks(run: RunFolder, capsys: Any) -> None:
    status, out, err = checkpoints(capsys, run, "list")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["version", "step", "saved", "why", "size", "val/loss"]
    assert [line.split()[0] for line in lines[1:4]] == ["v000001_step000000", "v000002_step000003", "v000003_step000006"]
    assert lines[3].endswith("last, best")
    assert lines[4].startswith("3 versions, ")
    status, out, _ = checkpoints(capsys, run, "list", "--json")
    records = json.loads(out)
    assert [record["seal"]["reason"] for record in records] == ["start", "validation", "end"]


def test_what_cannot_be_read_is_listed_with_its_reason(run: RunFolder, capsys: Any) -> None:
    (run.checkpoints / "v000009_step000009.ckpt").write_bytes(b"x" * 100)
    _, out, _ = checkpoints(capsys, run, "list")
    assert "it has no seal: it was cut off, added to, or not written by musictrain" in out


def test_looking_needs_neither_torch_nor_lightning(run: RunFolder) -> None:
    code = (
        "import sys; from musictrain.cli.commands import main\n"
        "for action in ('list', 'show', 'verify', 'restore'):\n"
        "    assert main(['checkpoints', action, sys.argv[1]]) == 0\n"
        "assert main(['checkpoints', 'prune', sys.argv[1], '--dry-run']) == 0\n"
        "assert main(['checkpoints', 'pin', sys.argv[1], '2']) == 0\n"
        "print(sorted({'torch', 'lightning', 'numpy.random'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_show_tells_what_the_seal_says(run: RunFolder, capsys: Any) -> None:
    status, out, _ = checkpoints(capsys, run, "show", "best")
    facts = dict(line.split(None, 1) for line in out.splitlines())
    assert status == 0
    assert (facts["step"], facts["healthy"], facts["parent"]) == ("6", "yes", "v000002_step000003")
    assert json.loads(checkpoints(capsys, run, "show", "2", "--json")[1])["step"] == 3


def test_verify_names_the_bad_one_and_ends_with_1(run: RunFolder, capsys: Any) -> None:
    assert checkpoints(capsys, run, "verify")[:2] == (
        0,
        "good  v000001_step000000.ckpt\ngood  v000002_step000003.ckpt\ngood  v000003_step000006.ckpt\nAll 3 are whole.\n",
    )
    bad = run.checkpoints / "v000002_step000003.ckpt"
    spoil(bad)
    status, out, _ = checkpoints(capsys, run, "verify")
    assert status == 1
    assert "BAD   v000002_step000003.ckpt: its bytes are not those that were sealed" in out
    assert "2 of 3 are whole." in out
    status, out, _ = type_command(capsys, "checkpoints", "verify", bad)
    assert (status, out.splitlines()[-1]) == (1, "0 of 1 are whole.")
    status, out, _ = checkpoints(capsys, run, "verify", "--json")
    assert [entry["good"] for entry in json.loads(out)] == [True, False, True]


def test_an_average_is_a_version_that_can_be_heard_and_not_resumed(run: RunFolder, tmp_path: Path, capsys: Any) -> None:
    status, out, err = checkpoints(capsys, run, "average", "--last", 2)
    assert (status, err) == (0, "")
    assert "the mean of v000002_step000003, v000003_step000006" in out
    ours, first, second = (load(run.checkpoints / f"{name}.ckpt")["state_dict"] for name in
                           ("v000004_step000006", "v000002_step000003", "v000003_step000006"))  # fmt: skip
    for name, tensor in ours.items():
        assert torch.equal(tensor, ((first[name].double() + second[name].double()) / 2).to(tensor.dtype))
    words = ("--runs", run.path.parent, "--n", 1, "--beats", 2, "--out", tmp_path / "out")
    status, out, err = type_command(capsys, "sample", run.name, "--ckpt", 4, *words)
    assert (status, err) == (0, "")
    assert "v000004_step000006.ckpt after 6 steps" in out
    status, _, _ = type_command(capsys, "resume", run.name, "--runs", run.path.parent, "--trainer.max_steps", 7)
    assert status == 0, "the average does not stand in the way of the last version"


def test_too_few_versions_cannot_be_averaged(run: RunFolder, capsys: Any) -> None:
    status, _, err = checkpoints(capsys, run, "average", "--best", 7)
    assert (status, "7 are needed" in err) == (2, True)
    status, _, err = checkpoints(capsys, run, "average", "--steps", "9:3")
    assert (status, "expected two numbers of steps such as 100:900, got '9:3'" in err) == (2, True)
    status, _, err = checkpoints(capsys, run, "average")
    assert (status, "One of the arguments --last --best --steps is required" in err) == (2, True)


def test_an_export_is_read_without_musictrain(run: RunFolder, tmp_path: Path, capsys: Any) -> None:
    weights = load(run.checkpoints / "v000003_step000006.ckpt")["state_dict"]
    status, out, _ = checkpoints(capsys, run, "export", "--to", tmp_path / "model.safetensors")
    assert status == 0
    assert "from v000003_step000006.ckpt." in out
    exported = load_file(tmp_path / "model.safetensors")
    assert exported.keys() == weights.keys()
    assert all(torch.equal(exported[name], weights[name]) for name in weights)
    assert checkpoints(capsys, run, "export", "last", "--to", tmp_path / "model.ckpt", "--dtype", "bf16", "--weights-only")[0] == 0
    plain = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert {tensor.dtype for tensor in plain["state_dict"].values() if tensor.is_floating_point()} == {torch.bfloat16}


def test_an_export_overwrites_nothing_unasked(run: RunFolder, tmp_path: Path, capsys: Any) -> None:
    target = tmp_path / "mine.safetensors"
    target.write_text("precious")
    status, _, err = checkpoints(capsys, run, "export", "--to", target)
    assert (status, "is there already. Say --replace" in err, target.read_text()) == (2, True, "precious")
    assert checkpoints(capsys, run, "export", "--to", target, "--replace")[0] == 0
    status, _, err = checkpoints(capsys, run, "export", "--to", tmp_path / "missing" / "x.ckpt")
    assert (status, "could not be written: No such file or directory" in err) == (1, True)
    status, _, err = checkpoints(capsys, run, "export", "--to", tmp_path / "model.onnx")
    assert (status, "expected .ckpt or .safetensors" in err) == (2, True)


def test_a_pinned_version_survives_a_prune(run: RunFolder, capsys: Any) -> None:
    assert checkpoints(capsys, run, "pin", "1")[1] == "v000001_step000000 stays, whatever the rules say.\n"
    before = names(run)
    status, out, _ = checkpoints(capsys, run, "prune", "--newest", 1, "--dry-run")
    assert (status, names(run)) == (0, before)
    assert "1 of 3 versions would be removed" in out
    assert checkpoints(capsys, run, "prune", "--newest", 1)[0] == 0
    assert names(run) == ["v000001_step000000.pinned.ckpt", "v000003_step000006.ckpt"]
    assert checkpoints(capsys, run, "unpin", "1")[1] == "v000001_step000000 is left to the rules.\n"
    assert checkpoints(capsys, run, "prune", "--newest", 0)[0] == 0
    assert names(run) == ["v000003_step000006.ckpt"], "the newest good one is never removed"
    status, _, err = checkpoints(capsys, run, "prune", "--newest", -1)
    assert (status, "expected a whole number from 0 on" in err) == (2, True)


def test_the_rules_of_a_prune_are_the_runs(run: RunFolder, capsys: Any) -> None:
    config = yaml.safe_load(run.config.read_text())
    settings = {"class_path": "musictrain.callbacks.VersionedCheckpoint", "init_args": {"newest": 1, "best": 0, "monitor": None}}
    config["trainer"]["callbacks"] = [*config["trainer"]["callbacks"], settings]
    run.config.write_text(yaml.safe_dump(config))
    records = json.loads(checkpoints(capsys, run, "prune", "--dry-run", "--json")[1])
    assert records == {"keep": ["v000003_step000006"], "thin": [], "remove": ["v000001_step000000", "v000002_step000003"]}


def test_nothing_is_pruned_while_somebody_trains(run: RunFolder, capsys: Any) -> None:
    lock = FolderLock(run.checkpoints)
    lock.acquire()
    try:
        status, _, err = checkpoints(capsys, run, "prune", "--newest", 1)
    finally:
        lock.release()
    assert (status, "Another trainer" in err, len(names(run))) == (1, True, 3)


def test_what_was_set_aside_comes_back_if_it_is_whole(run: RunFolder, capsys: Any) -> None:
    put_aside(run.checkpoints / "v000003_step000006.ckpt", "abandoned")
    broken = run.checkpoints / "v000002_step000003.ckpt"
    spoil(broken)
    put_aside(broken, "corrupt")
    _, out, _ = checkpoints(capsys, run, "restore")
    assert "Set aside: v000002_step000003.ckpt.corrupt, v000003_step000006.ckpt.abandoned." in out
    status, out, _ = checkpoints(capsys, run, "restore", "3")
    assert (status, "is back and whole" in out) == (0, True)
    status, _, err = checkpoints(capsys, run, "restore", "v000002_step000003")
    assert (status, "stays aside: its bytes are not those" in err) == (1, True)
    assert names(run) == ["v000001_step000000.ckpt", "v000002_step000003.ckpt.corrupt", "v000003_step000006.ckpt"]


def test_a_version_comes_back_from_the_mirror(run: RunFolder, tmp_path: Path, capsys: Any) -> None:
    mirror = tmp_path / "mirror"
    write_version(mirror / run.name, 7, 60)
    status, out, _ = checkpoints(capsys, run, "restore", "--from", mirror)
    assert f"In the mirror {mirror}: v000007_step000060.ckpt." in out
    status, out, err = checkpoints(capsys, run, "restore", "7", "--from", mirror)
    assert (status, err) == (0, "")
    assert [version.number for version in list_versions(run.checkpoints)] == [1, 2, 3, 7]
    status, _, err = checkpoints(capsys, run, "restore", "8", "--from", mirror)
    assert (status, "There is no 8 to bring back" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["checkpoints", "lst", "latest"], "Did you mean 'list'?"),
        (["checkpoints", "list", "nowhere"], "No run 'nowhere'"),
        (["checkpoints", "show", "latest", "v000002_step000004"], "Did you mean 'v000002_step000003'?"),
        (["checkpoints", "list"], "required: RUN"),
        (["checkpoints", "export", "latest"], "required: --to"),
        (["checkpoints", "list", "latest", "--jsn"], "Did you mean '--json'?"),
    ],
)
def test_mistakes_are_answered_in_one_line(words: list[str], complaint: str, runs_dir: Path, capsys: Any) -> None:
    status, _, err = type_command(capsys, *words, "--runs", runs_dir)
    assert (status, complaint in err, len(err.splitlines())) == (2, True, 1), err


def test_help_names_every_action(capsys: Any) -> None:
    status, out, _ = type_command(capsys, "checkpoints", "--help")
    assert status == 0
    for action in ("list", "show", "verify", "average", "export", "pin", "unpin", "prune", "restore"):
        assert f"\n  {action} " in out
        assert type_command(capsys, "checkpoints", action, "--help")[0] == 0


def test_a_run_that_has_saved_nothing_has_nothing_to_show(run: RunFolder, capsys: Any) -> None:
    for path in run.checkpoints.iterdir():
        path.unlink()
    for action in ("list", "verify"):
        status, out, _ = checkpoints(capsys, run, action)
        assert (status, "it has not saved any yet" in out) == (0, True)
