"""A version of any strategy and number of processes is gone on from under any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from musictrain.checkpoints.exporting import export
from musictrain.checkpoints.seal import read_seal
from musictrain.checkpoints.storing import load
from musictrain.checkpoints.verification import verify
from musictrain.models import Decoder
from tests.checkpoints.exact_runs import apart
from tests.checkpoints.strategy_runs import AVERAGED, END, RANKS, SAVED, Music, version_at

pytestmark = pytest.mark.slow
PAIRS = [(before, after) for before in RANKS for after in RANKS]
SUMMATION_ORDER = 1e-6
SHARDED = ("fsdp", "tp", "fsdp+tp")


def in_new_process(repository: Path, what: str, folder: Path, timeout: float = 600) -> str:
    """Do one of the things in strategy_runs where nothing was trained before; gives back what was printed."""
    words = [sys.executable, "-m", "tests.checkpoints.strategy_runs", what, str(folder)]
    done = subprocess.run(
        words, cwd=repository, capture_output=True, text=True, timeout=timeout, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A run of each strategy, and for each pair one that went on from the first under the second."""
    folder = tmp_path_factory.mktemp("runs")
    in_new_process(repository, "every_pair", folder)
    return folder


def distance(one: Any, other: Any) -> float:
    """The largest difference of any weight."""
    assert one["state_dict"].keys() == other["state_dict"].keys()
    return max(float((value.double() - other["state_dict"][name].double()).abs().max()) for name, value in one["state_dict"].items())


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_a_resume_under_another_strategy_ends_in_the_same_weights(before: str, after: str, runs: Path) -> None:
    whole, resumed = (load(version_at(runs / name, END)) for name in (before, f"{before} to {after}"))
    assert distance(whole, load(version_at(runs / before, SAVED))) > 1e-3, "it went on learning"
    assert distance(whole, resumed) < SUMMATION_ORDER
    if before == after:
        assert apart(whole, resumed) == []


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_the_report_says_what_came_back_and_what_changed(before: str, after: str, runs: Path) -> None:
    report = json.loads((runs / f"{before} to {after}" / "report.json").read_text())
    assert report["step"] == SAVED
    assert report["restored"][:5] == ["weights", "optimizer", "schedule", "loops", "position in the data"]
    assert report["missing"] == []
    assert report["exact"] is (before == after)
    assert {change["what"] for change in report["changed"]} - {"commit"} <= {"world_size", "data_shares", "strategy"}
    loops = load(version_at(runs / f"{before} to {after}", END))["loops"]["fit_loop"]
    assert loops["epoch_loop.batch_progress"]["total"]["processed"] == END


@pytest.mark.parametrize("kind", SHARDED)
def test_a_sharded_version_put_together_is_what_one_process_would_have_saved(kind: str, runs: Path, tmp_path: Path) -> None:
    for step in (0, SAVED, END):
        sharded, plain = load(version_at(runs / kind, step)), load(version_at(runs / "single", step))
        assert sharded.keys() == plain.keys()
        (state,), (expected,) = sharded["optimizer_states"], plain["optimizer_states"]
        assert {key: value.keys() for key, value in state["state"].items()} == {k: v.keys() for k, v in expected["state"].items()}
        assert [group["params"] for group in state["param_groups"]] == [group["params"] for group in expected["param_groups"]]
        assert all(value["step"] == step for value in state["state"].values()), "saving is no step of the optimizer"
        if step == 0:
            assert distance(sharded, plain) == 0.0
        path = export(version_at(runs / kind, step), tmp_path / f"{step}.ckpt")
        assert (verify(path).kind, apart(torch.load(path, weights_only=True), sharded)) == ("full", [])


@pytest.fixture(scope="module")
def averages(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """The same with a moving average of the weights, for fewer strategies."""
    folder = tmp_path_factory.mktemp("averages")
    in_new_process(repository, "averages", folder)
    return folder


def raw(tree: Any) -> dict[str, Any]:
    """The weights beside the average."""
    return {"state_dict": tree["current_model_state"]}


@pytest.mark.parametrize(("before", "after"), [(before, after) for before in AVERAGED for after in AVERAGED])
def test_average_and_raw_weights_go_on_under_another_strategy(before: str, after: str, averages: Path) -> None:
    whole, resumed = (load(version_at(averages / name, END)) for name in (before, f"{before} to {after}"))
    assert distance(whole, raw(whole)) > 1e-3, "the average is another thing than the weights"
    assert distance(whole, resumed) < SUMMATION_ORDER
    assert distance(raw(whole), raw(resumed)) < SUMMATION_ORDER
    assert (resumed["averaging_state"]["n_averaged"], resumed.keys()) == (END, whole.keys())
    assert "averaged weights" in json.loads((averages / f"{before} to {after}" / "report.json").read_text())["restored"]
    if before == after:
        assert apart(whole, resumed) == []


@pytest.mark.parametrize("kind", AVERAGED)
def test_what_is_validated_is_the_average(kind: str, averages: Path) -> None:
    losses = [read_seal(version_at(averages / name, END)).metrics["val/loss"] for name in (kind, "single")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_shares_put_together_into_one_file_are_gone_on_from_in_shares(averages: Path) -> None:
    """Their optimizer states are numbered by the groups, as one process numbers them; Lightning's are not."""
    whole, resumed = (load(version_at(averages / name, END)) for name in ("one file", "one file/on"))
    assert version_at(averages / "one file", SAVED).is_file()
    assert (distance(whole, resumed), distance(raw(whole), raw(resumed))) == (0.0, 0.0)
    assert [group["params"][0] for group in whole["optimizer_states"][0]["param_groups"]] == [0, 14]
    assert load(version_at(averages / "one file", 0))["optimizer_states"][0]["state"] == {}


@pytest.fixture(scope="module")
def players(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Runs that write samples while they train."""
    folder = tmp_path_factory.mktemp("players")
    in_new_process(repository, "players", folder)
    return folder


@pytest.mark.parametrize("kind", ["fsdp", "tp"])
def test_a_network_in_shares_is_played_from_by_the_first_process_alone(kind: str, players: Path) -> None:
    written = sorted(path.relative_to(players / kind).as_posix() for path in (players / kind).rglob("*.mid"))
    assert written == [f"samples/step_{step:06d}/from_nothing.mid" for step in (SAVED, END)]
    weights, logits = torch.load(players / kind / "whole.pt", weights_only=True)
    stored = load(version_at(players / kind / "checkpoints", END))["state_dict"]
    assert {f"network.{name}" for name in weights} == set(stored)
    assert all(torch.equal(value, stored[f"network.{name}"]) for name, value in weights.items())
    network = Decoder(Music.tokenizer.vocab_size, 16, 2, 2, max_context=64).eval()
    network.load_state_dict(weights)
    assert torch.equal(network(torch.arange(8)[None]), logits), "buffers that no state_dict has came along"


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> tuple[Path, str]:
    """Saves in shares that a kill or a full disk has ended; and what was printed."""
    folder = tmp_path_factory.mktemp("broken")
    return folder, in_new_process(repository, "broken_off", folder)


def test_a_process_killed_while_it_writes_its_share_loses_nothing(broken_off: tuple[Path, str]) -> None:
    folder, _ = broken_off
    left = (folder / "left").read_text().split("\n")
    assert any(name.startswith(".incoming-") and name.endswith("step000004.ckpt") for name in left), "it died in the middle"
    assert [name for name in left if name.startswith("v")] == ["v000001_step000000.ckpt", "v000002_step000002.ckpt"]
    assert not list((folder / "killed").glob(".incoming-*")), "the next start has cleared it away"
    assert apart(*(load(version_at(folder / name, 8)) for name in ("killed", "whole"))) == []


def test_a_share_that_finds_no_room_costs_one_version_and_stops_nobody(broken_off: tuple[Path, str]) -> None:
    folder, printed = broken_off
    assert [path.name for path in sorted((folder / "full").iterdir())] == [".lock", "v000004_step000006.ckpt", "v000005_step000008.ckpt"]
    assert apart(*(load(version_at(folder / name, 8)) for name in ("full", "whole"))) == []
    assert "NOT SAVED  v000002_step000002.ckpt: process 1: No space left on device. Training goes on" in printed
    assert "NOT SAVED  v000003_step000004.ckpt: process 0: No space left on device. Training goes on" in printed
    assert "v000005" not in "".join(line for line in printed.splitlines() if line.startswith("NOT SAVED")), "room was made for it"


@pytest.fixture(scope="module")
def oddities(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Tied weights in bfloat16 kept by rule, and versions that do not fit."""
    folder = tmp_path_factory.mktemp("oddities")
    in_new_process(repository, "oddities", folder)
    return folder


def test_sharded_versions_are_thinned_removed_and_copied_to_a_mirror(oddities: Path) -> None:
    assert sorted(path.name for path in (oddities / "kept").glob("v*")) == [
        *("v000002_step000002.thin.ckpt", "v000003_step000004.thin.ckpt", "v000004_step000006.ckpt", "v000005_step000008.ckpt"),
    ]
    (mirror,) = (oddities / "mirror").iterdir()
    for step in (0, 2, 4, 6, 8):
        assert verify(version_at(mirror, step)).kind == "sharded", "a mirror keeps what was saved"
    assert load(version_at(oddities / "kept", 2))["state_dict"].keys() == load(version_at(mirror, 2))["state_dict"].keys()


def test_tied_weights_in_bfloat16_are_put_together_and_gone_on_from(oddities: Path) -> None:
    weights = load(version_at(oddities / "kept", 8))["state_dict"]
    assert weights["network.head.weight"] is weights["network.embedding.weight"]
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    end = load(version_at(oddities / "on", 10))
    assert torch.equal(end["state_dict"]["network.head.weight"], end["state_dict"]["network.embedding.weight"])
    assert {float(value["step"]) for value in end["optimizer_states"][0]["state"].values()} == {10.0}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_sharded_version_that_does_not_fit_is_refused_by_every_process(rank: int, oddities: Path) -> None:
    model, optimizer, damaged = (oddities / f"said{rank}").read_text().split("\n")
    assert model.startswith("ResumeMismatchError: v000002_step000002.ckpt holds another model than this run has: network.embedding.weight")
    assert optimizer.startswith("ResumeMismatchError: v000002_step000002.ckpt was trained with AdamW of 14+6 weights, but this run has SGD")
    assert damaged.endswith("cannot be used: the bytes of its __1_0.distcp are not those that were sealed.")


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Runs that gather gradients over batches, saved in between."""
    folder = tmp_path_factory.mktemp("windows")
    in_new_process(repository, "windows", folder)
    return folder


@pytest.mark.parametrize("name", ["whole to ddp", "whole to fsdp", "alone to fsdp", "alone to single"])
def test_a_half_filled_window_is_filled_by_any_number_of_processes(name: str, windows: Path) -> None:
    start, whole, resumed = (load(version_at(windows / each, step)) for each, step in (("whole", 1), ("whole", END), (name, END)))
    assert start["musictrain_gradients"].keys() == start["state_dict"].keys()
    # A window whose first half counts twice ends 0.05 away. Steps on gradients that are nearly zero are larger than their rounding.
    assert distance(whole, resumed) < 1e-4
