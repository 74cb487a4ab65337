"""fit is asked what points come to, and a trial is the run that it was said to be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from musictrain.cli import search_loading
from musictrain.cli.exits import UsageError
from musictrain.cli.search_checking import asked
from musictrain.cli.search_loading import Loaded, load, write_base, write_definition
from musictrain.cli.search_options import parser
from musictrain.cli.search_showing import look_at
from musictrain.runs import list_runs
from musictrain.search.identity import identity_of
from tests.cli.tiny import tiny_config, type_command, write_config, write_corpus

SPACE = ("--grid", "optimizer.lr=0.01,0.002", "num_heads=2,3", "--seeds", "7,8")


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    return write_config(folder / "tiny.yaml", tiny_config(write_corpus(folder / "frames.json")))


def loaded(configuration: Path, runs: Path, *words: str) -> Loaded:
    return load(parser().parse_args(["--config", str(configuration), "--runs", str(runs), "--name", "heads", *words]))


@pytest.fixture(scope="module")
def begun(configuration: Path, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A search whose points fit has been asked about."""
    first = loaded(configuration, tmp_path_factory.mktemp("runs"), *SPACE)
    assert first.unchecked
    first.folder.path.mkdir()
    write_base(first)
    found = asked(first)
    write_definition(found)
    return found


def test_what_fit_said_is_known_without_asking_again(begun: Loaded, configuration: Path) -> None:
    again = loaded(configuration, begun.folder.path.parent, *SPACE)
    assert not again.unchecked
    assert again == begun
    assert [len(again.planned), len({each.identity for each in again.planned if each.identity})] == [8, 4]
    assert {each.error for each in again.planned if each.point.values["model.init_args.network.init_args.num_heads"] == 3} != {""}
    assert look_at(again.folder).definition == again.definition


def test_without_seeds_the_configurations_own_is_meant(begun: Loaded, configuration: Path) -> None:
    found = loaded(configuration, begun.folder.path.parent, "--grid", "optimizer.lr=0.01,0.002", "num_heads=2,3")
    assert found.definition.seeds == (7,)
    assert list(found.planned) == [each for each in begun.planned if each.seed == 7]


def test_a_value_more_asks_for_its_points_alone(begun: Loaded, configuration: Path) -> None:
    more = loaded(configuration, begun.folder.path.parent, "--grid", "optimizer.lr=0.01,0.002,0.003", "num_heads=2", "--seeds", "7,8,9")
    assert more.definition.rule == begun.definition.rule
    assert not more.points
    known = search_loading.read_known(begun.folder.points)
    known.take({"space": search_loading.space_fingerprint(more.definition, {}), "points": [
        {"model.init_args.optimizer.init_args.lr": lr, "model.init_args.network.init_args.num_heads": 2} for lr in (0.01, 0.002, 0.003)
    ]})  # fmt: skip
    found = search_loading.completed(more, known)
    assert [(point.values["model.init_args.optimizer.init_args.lr"], seed) for point, seed in found.missing] == [
        (0.01, 9), (0.002, 9), (0.003, 7), (0.003, 8), (0.003, 9),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--trainer.max_steps", "9"), r"There is a search 'heads' already, and this one changes what lies under every point"),
        (("--objective", "max:val/x"), r"changes the objective, which was lowest val/loss.*another name"),
    ],
)
def test_another_search_of_the_same_name_is_refused(begun: Loaded, configuration: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        loaded(configuration, begun.folder.path.parent, *SPACE, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--grid", "learning_rat=1,2"), "There is no key 'learning_rat' in the configuration"),
        (("--grid", "optimizer.lr=fast,slow"), "No point of the space can be trained.*lr"),
        (("--gird", "optimizer.lr=0.1"), "The space is empty.*--gird: did you mean '--grid'"),
        (("--grid", "optimizer.lr=0.1", "--halvin"), "Unknown option 'halvin'.*--halvin: did you mean '--halving'"),
        (("--grid", "optimizer.lr=0.1", "--trainer.max_steps", "-1"), "A search needs trainer.max_steps"),
        (
            ("--grid", "optimizer.lr=0.1,0.2,0.3", "--seeds", "0,1", "--most-trials", "5"),
            "3 points with 2 seeds each: 6 trials, 36 steps in all. No more than 5 trials",
        ),
    ],
)
def test_a_search_that_cannot_work_is_refused_before_anything_is_trained(
    configuration: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        asked(loaded(configuration, tmp_path, *words))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_trial_is_the_run_that_it_was_said_to_be(begun: Loaded, capsys: Any) -> None:
    runs = begun.folder.path.parent
    trial = next(each for each in begun.planned if each.identity and each.seed == 8)
    words = begun.words(trial.identity, trial.point, trial.seed)
    assert type_command(capsys, "fit", *words, "--name", "mine", "--trainer.enable_progress_bar", "false")[0] == 0
    (run,) = list_runs(runs)
    config = yaml.safe_load(run.config.read_text())
    assert identity_of(config) == trial.identity
    others = [each.identity for each in begun.planned if each != trial]
    assert trial.identity not in others
    assert replace(trial, seed=7) not in begun.planned
