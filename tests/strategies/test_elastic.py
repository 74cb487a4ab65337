"""A run that loses a process goes on from its last good version, the same one in all processes, and ends in the bits it would have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from musictrain.cli.commands import main
from musictrain.cli.exits import UsageError
from musictrain.cli.one_decision import VARIABLE, first_decides
from musictrain.runs import RunFolder, list_runs, read_records
from tests.strategies.launched import (
    ELASTIC,
    config_of,
    fit_words,
    last_weights,
    run_to_end,
    same,
    steps_saved,
    torchrun_words,
)
from tests.strategies.ranks import run_ranks

# One decision for all processes.


def undecided(folder: Path, launcher: str) -> None:
    """A rank that would decide for itself; what it is told is left in a file, once it has met the others at the same place."""
    import torch.distributed as dist

    rank = os.environ["RANK"]
    if launcher == "slurm":
        own = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NTASKS": os.environ["WORLD_SIZE"], "SLURM_NTASKS_PER_NODE": "2"}
        os.environ |= {**own, "SLURM_NODEID": "0", "SLURM_NNODES": "1", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "7"}
        del os.environ["TORCHELASTIC_RUN_ID"]

    def refuse() -> None:
        raise UsageError(f"rank {rank} finds nothing")

    told = [first_decides("number", lambda: rank), first_decides("nothing", lambda: None if rank == "0" else rank)]
    dist.init_process_group("gloo", rank=int(rank), world_size=int(os.environ["WORLD_SIZE"]), timeout=timedelta(seconds=300))
    dist.barrier()
    try:
        first_decides("refused", refuse)
    except UsageError as error:
        told.append(str(error))
    (folder / f"{launcher}_{rank}.json").write_text(json.dumps(told))


def decide_all(folder: Path) -> None:
    for launcher in ("torchrun", "slurm"):
        run_ranks(2, undecided, folder, launcher, timeout_seconds=300)


def in_a_fresh_process(name: str, folder: Path, repository: Path) -> None:
    """Ranks are forked where nothing was trained yet."""
    script = f"import sys; from pathlib import Path; from tests.strategies.test_elastic import {name}; {name}(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", script, str(folder)], cwd=repository, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_what_the_first_process_decides_is_what_all_are_told(tmp_path: Path, repository: Path) -> None:
    in_a_fresh_process("decide_all", tmp_path, repository)
    told = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    assert told == [["0", None, "rank 0 finds nothing"]] * 4


def test_processes_that_lightning_starts_inherit_the_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(VARIABLE, "{}")
    assert first_decides("which", lambda: "mine") == "mine"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert first_decides("which", lambda: "another") == "mine"
    assert first_decides("something else", lambda: "another") == "another"


def test_a_machine_that_does_not_see_the_runs_says_so(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    elsewhere = str(tmp_path / "other" / "v000001_step000003.ckpt")
    told = json.dumps({"decided": [str(tmp_path / "other"), elsewhere]})
    monkeypatch.setenv(VARIABLE, json.dumps({"resume latest": told}))
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["resume", "latest", "--runs", str(tmp_path)]) == 2
    assert f"{elsewhere} is not there, from which the first process of this run goes on" in capsys.readouterr().err


# Killed, started again by torchrun.


def undisturbed(folder: Path) -> None:
    """Both runs to the end, by ranks that nobody kills."""
    for strategy in ("ddp", "fsdp"):
        run_ranks(2, main_to_end, fit_words(folder / "run.yaml", folder / strategy, "--trainer.strategy", strategy), timeout_seconds=400)


def main_to_end(words: list[str]) -> None:
    assert main(words) == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A configuration that kills rank 1 once, and the runs of it in which that has been done already."""
    folder = tmp_path_factory.mktemp("elastic")
    config_of(folder)
    (folder / "killed").touch()
    in_a_fresh_process("undisturbed", folder, repository)
    (folder / "killed").unlink()
    return folder


@pytest.fixture(scope="module")
def restarted(whole: Path) -> Callable[[str], tuple[Path, str]]:
    """The runs folder of a strategy whose rank 1 was killed and started again, and what was printed."""
    done: dict[str, tuple[Path, str]] = {}

    def of(strategy: str) -> tuple[Path, str]:
        if strategy not in done:
            (whole / "killed").unlink(missing_ok=True)
            runs = whole / f"{strategy} restarted"
            words = fit_words(whole / "run.yaml", runs, "--ckpt_path", "auto", "--trainer.strategy", strategy)
            status, printed = run_to_end([*torchrun_words("--max_restarts", "2"), *words], whole / f"{strategy}.log", **ELASTIC)
            assert status == 0, printed
            done[strategy] = runs, printed
        return done[strategy]

    return of


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_killed_process_is_started_again_and_the_run_ends_in_the_same_bits(restarted, whole: Path, strategy: str) -> None:
    runs, printed = restarted(strategy)
    assert (whole / "killed").exists()
    assert "resumed  v000003_step000006.ckpt" in printed
    assert "Another process of this run has ended" in printed
    assert same(last_weights(runs), last_weights(whole / strategy))


@pytest.mark.slow
def test_a_run_goes_on_with_fewer_and_with_more_processes(restarted, tmp_path: Path) -> None:
    runs, _ = restarted("ddp")
    (run,) = list_runs(runs)
    more = ["resume", "latest", "--runs", str(runs), "--trainer.max_steps"]
    assert run_to_end([sys.executable, "-m", "musictrain", *more, "18"], tmp_path / "one.log")[0] == 0
    status, printed = run_to_end([*torchrun_words(), *more, "20"], tmp_path / "two.log", **ELASTIC)
    assert status == 0, printed
    assert steps_saved(runs)[-2:] == [18, 20]
    assert [row["environment"]["devices"]["world_size"] for row in resumptions(run)] == [2, 1, 2]


def resumptions(run: RunFolder) -> list[dict[str, Any]]:
    return [row for row in read_records(run.events) if row["event"] == "resumed" and "environment" in row]
