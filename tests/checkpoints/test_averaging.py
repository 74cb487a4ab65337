"""Averages of versions: which go in, what comes out, and what is refused."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging

from musictrain.checkpoints import averaging
from musictrain.checkpoints.averaging import average_versions, save_average, select
from musictrain.checkpoints.catalog import list_versions, version_path
from musictrain.checkpoints.retention import Retention, decide
from musictrain.checkpoints.storing import store
from musictrain.checkpoints.verification import BrokenCheckpointError, verify
from musictrain.cli.commands import main
from musictrain.cli.exits import UsageError
from musictrain.cli.trained_run import load_trained_run
from musictrain.runs import list_runs
from tests.checkpoints.some_trees import Tied, as_versions, plain_load, train
from tests.checkpoints.some_versions import numbers, version
from tests.cli.tiny import tiny_config, write_config, write_corpus


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return train(tmp_path_factory.mktemp("stock"))


@pytest.fixture
def stored(stock: list[Path], tmp_path: Path) -> list[Path]:
    return as_versions(stock, tmp_path / "checkpoints")


def tree_of(*values: float, dtype: torch.dtype = torch.float32, step: int = 1, **more: Any) -> dict[str, Any]:
    return {"state_dict": {"a": torch.tensor(values, dtype=dtype), **more}, "global_step": step}


def files(folder: Path, *trees: dict[str, Any]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.ckpt" for number in range(len(trees))]
    for path, tree in zip(paths, trees, strict=True):
        store(tree, path, replace=True)
    return paths


# Which.


def test_the_last_and_the_best_are_chosen_among_healthy_full_ones() -> None:
    versions = [
        version(1, loss=0.1),
        version(2, loss=0.3),
        version(3, loss=0.2),
        version(4, loss=0.0, ill="loss spike"),
        version(5, None, "thin", loss=0.0),
        version(6, kind="average", loss=0.0),
        version(7, kind="sharded", loss=0.15),
        version(8, readable=False),
        version(9),
    ]
    assert numbers(select(versions, last=2)) == [7, 9]
    assert numbers(select(reversed(versions), best=2)) == [1, 7]
    assert numbers(select(versions, best=2, mode="max")) == [2, 3]
    assert numbers(select(versions, steps=(20, 30))) == [2, 3]
    assert numbers(select(versions, steps=(None, 30))) == [1, 2, 3]
    assert numbers(select(versions, numbers=(2, None))) == [2, 3, 7, 9]
    assert numbers(select(versions, steps=(20, None), best=2)) == [3, 7]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"last": 4}, r"Of 4 versions 3 can be averaged.*; 4 are needed"),
        ({"best": 3}, r"Of 4 versions 3 can be averaged.*Of these, 2 have a value of val/loss; 3 are needed"),
        ({"steps": (25, None)}, r"Of these, 1 lie in the range of steps asked for; 2 are needed"),
        ({"numbers": (8, 9), "best": 2}, r"0 lie in the range of numbers asked for and have a value of val/loss; 2"),
        ({}, r"last=None and best=None: say one of them, or a range"),
        ({"last": 2, "best": 2}, r"last=2 and best=2: say one of them"),
        ({"last": 1}, r"last=1: an average is of 2 versions or more"),
        ({"best": -1}, r"best=-1: an average is of 2"),
        ({"best": 2, "mode": "least"}, r"mode='least', expected min or max"),
        ({"steps": (30, 10)}, r"steps from 30 to 10, which holds none"),
    ],
)
def test_a_question_without_an_answer_is_refused_with_the_numbers(question: dict[str, Any], message: str) -> None:
    versions = [version(1, loss=0.1), version(2, loss=0.2), version(3), version(4, ill="loss spike")]
    with pytest.raises(ValueError, match=message):
        select(versions, **question)


# What comes out.


def test_the_average_is_the_mean_by_hand(tmp_path: Path) -> None:
    paths = files(tmp_path, tree_of(1.0, 2.0), tree_of(2.0, 4.0), tree_of(6.0, 9.0))
    tree, sources = average_versions(paths)
    assert tree["state_dict"]["a"].tolist() == [3.0, 5.0]
    assert sources == ("0.ckpt", "1.ckpt", "2.ckpt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64])
def test_the_average_has_the_dtype_of_the_weights_and_of_equal_ones_is_themselves(tmp_path: Path, dtype: torch.dtype) -> None:
    value = torch.randn(50, generator=torch.Generator().manual_seed(1)).to(dtype)
    trees = [{"state_dict": {"a": value}, "global_step": step} for step in range(4)]
    mean = average_versions(files(tmp_path, *trees))[0]["state_dict"]["a"]
    assert mean.dtype == dtype
    assert torch.equal(mean, value)


def test_sums_are_in_float64(tmp_path: Path) -> None:
    # In float32, 2**24 + 1 is 2**24: the mean would be 2**23.
    paths = files(tmp_path, tree_of(2.0**24), tree_of(1.0), tree_of(-(2.0**24)), tree_of(1.0))
    assert average_versions(paths)[0]["state_dict"]["a"].tolist() == [0.5]


def test_what_is_no_number_with_a_point_is_that_of_the_most_steps_wherever_it_stands(tmp_path: Path) -> None:
    def tree(step: int) -> dict[str, Any]:
        counted = {"count": torch.tensor(step), "mask": torch.tensor([step > 5]), "extra": {"k": step}}
        return {**tree_of(1.0, step=step, **counted), "epoch": step}

    for order in ([3, 9, 6], [9, 3, 6], [3, 6, 9]):
        mean = average_versions(files(tmp_path / str(order), *map(tree, order)))[0]
        assert mean["state_dict"]["count"].item() == 9
        assert mean["state_dict"]["mask"].item()
        assert mean["state_dict"]["extra"] == {"k": 9}
        assert (mean["global_step"], mean["epoch"]) == (9, 9)
        assert list(mean["state_dict"]) == ["a", "count", "mask", "extra"]


def test_tied_weights_stay_tied(stored: list[Path]) -> None:
    weights = average_versions(stored)[0]["state_dict"]
    assert weights["head.weight"].data_ptr() == weights["embedding.weight"].data_ptr()
    assert weights["norm.weight"].data_ptr() != weights["norm.bias"].data_ptr()


def test_weights_that_are_tied_only_in_the_newest_are_averaged_each_for_itself(tmp_path: Path) -> None:
    one = torch.ones(2)
    paths = files(tmp_path, tree_of(3.0, 3.0, b=torch.zeros(2)), {"state_dict": {"a": one, "b": one}, "global_step": 2})
    weights = average_versions(paths)[0]["state_dict"]
    assert (weights["a"].tolist(), weights["b"].tolist()) == ([2.0, 2.0], [0.5, 0.5])


def test_the_average_of_moving_averages_leaves_the_raw_weights_out(tmp_path: Path) -> None:
    paths = train(tmp_path, callbacks=[EMAWeightAveraging(decay=0.5)])
    trees = [plain_load(path) for path in paths]
    assert not torch.equal(trees[2]["state_dict"]["head.weight"], trees[2]["current_model_state"]["head.weight"])
    mean, _ = average_versions(paths)
    expected = torch.stack([tree["state_dict"]["head.weight"].double() for tree in trees]).mean(0).float()
    assert torch.equal(mean["state_dict"]["head.weight"], expected)
    assert {"current_model_state", "averaging_state"}.isdisjoint(mean)


def test_an_average_is_stored_beside_its_sources_for_anybody_to_load(stored: list[Path]) -> None:
    path = save_average(stored[0].parent, stored)
    assert path.name == "v000004_step000003.ckpt"
    seal = verify(path)
    assert (seal.kind, seal.number, seal.step, seal.reason, seal.packing) == ("average", 4, 3, "average", "none")
    assert seal.sources == ("v000001_step000001", "v000002_step000002", "v000003_step000003")
    assert (seal.run, seal.tokenizer, seal.metrics) == ("a-run", "abc", {})
    expected = torch.stack([plain_load(each)["state_dict"]["norm.weight"].double() for each in stored]).mean(0).float()
    module = Tied.load_from_checkpoint(path)
    assert torch.equal(module.norm.weight, expected)
    assert module.norm.num_batches_tracked.item() == 3
    assert module.head.weight is module.embedding.weight
    tree = plain_load(path)
    assert tree["Numbers"]["tokenizer"]["fingerprint"] == "abc"
    assert set(plain_load(stored[2])) - set(tree) == {"optimizer_states", "lr_schedulers", "loops", "callbacks"}


def test_a_catalogue_lists_the_average_and_retention_leaves_it_alone(stored: list[Path]) -> None:
    path = save_average(stored[0].parent, stored[:2])
    versions = list_versions(path.parent)
    assert [each.path for each in versions] == [*stored, path]
    assert not versions[-1].resumable
    decision = decide(versions, Retention(newest=1, best=0))
    assert [each.path for each in decision.keep] == [stored[2], path]


def test_a_number_that_somebody_else_takes_first_is_passed_over(stored: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    real = averaging.next_number
    answers = iter([1, 3, 3])  # step 3 was stored under number 3; number 1 stands for another name
    folder = stored[0].parent
    store(plain_load(stored[0]), version_path(folder, 1, 3))
    monkeypatch.setattr(averaging, "next_number", lambda where: next(answers, None) or real(where))
    before = stored[2].read_bytes()
    assert save_average(folder, stored).name == "v000004_step000003.ckpt"
    assert stored[2].read_bytes() == before


def test_averages_made_at_the_same_time_get_numbers_of_their_own(stored: list[Path]) -> None:
    made: list[Path] = []
    threads = [threading.Thread(target=lambda: made.append(save_average(stored[0].parent, stored))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in made) == [f"v{number:06d}_step000003.ckpt" for number in (4, 5, 6, 7)]
    assert all(verify(path).number == int(path.name[1:7]) for path in made)


# What is refused.


def changed(tree: dict[str, Any], **weights: Any) -> dict[str, Any]:
    other = copy.deepcopy(tree)
    other["state_dict"].update(weights)
    return {**other, "state_dict": {name: value for name, value in other["state_dict"].items() if value is not None}}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"b": torch.zeros(3)}, r"1\.ckpt cannot be averaged with 0\.ckpt.*b has the shape \(3,\) there, and \(2,\) in the latter"),
        ({"b": torch.zeros(2, dtype=torch.bfloat16)}, r"b has the dtype torch\.bfloat16 there, and torch\.float32 in the latter"),
        ({"b": torch.zeros(2, dtype=torch.long)}, r"b has the dtype torch\.int64 there"),
        ({"b": "text"}, r"b has the shape None there, and \(2,\) in the latter"),
        ({"b": None}, r"only the latter has b\. Leave one of them out"),
        ({"c": torch.zeros(1)}, r"only the former has c"),
        ({"b": torch.tensor([0.0, float("nan")])}, r"1\.ckpt cannot be averaged: its \['state_dict'\]\['b'\] is not finite\. Leave it out"),
        ({"b": torch.tensor([float("-inf"), 0.0])}, r"its \['state_dict'\]\['b'\] is not finite"),
    ],
)
def test_another_model_or_broken_numbers_are_refused_by_name(tmp_path: Path, weights: dict[str, Any], message: str) -> None:
    first = tree_of(1.0, 2.0, b=torch.ones(2))
    with pytest.raises(ValueError, match=message):
        average_versions(files(tmp_path, first, changed(first, **weights)))
    assert len(list(tmp_path.iterdir())) == 2


def test_fewer_than_two_the_same_twice_or_no_weights_are_refused(stored: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"2 checkpoints or more, got 1"):
        average_versions(stored[:1])
    with pytest.raises(ValueError, match=r"v000002_step000002\.ckpt is given twice"):
        average_versions([*stored, stored[1].parent / "." / stored[1].name])
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint .*gone\.ckpt"):
        average_versions([stored[0], tmp_path / "gone.ckpt"])
    store({"weights": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt is not a Lightning checkpoint: it holds no state_dict"):
        average_versions([stored[0], tmp_path / "other.ckpt"])
    with pytest.raises(BrokenCheckpointError, match=r"checkpoints cannot be used: it is a directory without a seal"):
        average_versions([stored[0], stored[0].parent])


def test_a_damaged_version_is_refused_and_nothing_is_stored(stored: list[Path]) -> None:
    content = bytearray(stored[1].read_bytes())
    content[len(content) // 2] ^= 1
    stored[1].write_bytes(content)
    with pytest.raises(BrokenCheckpointError, match=r"v000002_step000002\.ckpt cannot be used: its bytes are not those"):
        save_average(stored[0].parent, stored)
    assert sorted(stored[0].parent.iterdir()) == stored


def test_the_average_of_a_run_can_be_sampled_from(tmp_path: Path) -> None:
    config = tiny_config(write_corpus(tmp_path / "frames.json"))
    config["trainer"] |= {"max_steps": 2, "val_check_interval": 2, "callbacks": []}
    write_config(tmp_path / "tiny.yaml", config)
    assert main(["fit", "--config", str(tmp_path / "tiny.yaml"), "--runs", str(tmp_path / "runs"), "--name", "tiny"]) == 0
    run = list_runs(tmp_path / "runs")[0]
    tree = plain_load(next(run.checkpoints.glob("*.ckpt")))
    doubled = {name: 2 * value for name, value in tree["state_dict"].items()}
    path = save_average(run.checkpoints, files(tmp_path, tree, {**tree, "state_dict": doubled}))
    trained = load_trained_run(run, str(path))
    weights = trained.network.state_dict()
    assert trained.step == 2
    assert all(torch.equal(weights[name], 1.5 * tree["state_dict"][f"network.{name}"]) for name in weights)
    other = {**plain_load(path), "MusicDataModule": {"tokenizer": {"name": "another", "fingerprint": "other"}}}
    with pytest.raises(UsageError, match="was trained with the tokenizer another"):
        load_trained_run(run, str(files(tmp_path, other)[0]))
