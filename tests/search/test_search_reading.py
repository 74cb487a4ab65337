"""A search as YAML and the command line say it; what cannot be meant is said before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from musictrain.cli.exits import UsageError
from musictrain.cli.search_options import parser
from musictrain.cli.search_typed import told_of
from musictrain.search.definition import Definition, Objective, SearchError
from musictrain.search.distributions import read_distribution
from musictrain.search.keys import full_key, in_full, short_names
from musictrain.search.reading import read_definition
from musictrain.search.resolving import with_rungs
from musictrain.search.yaml_text import read_yaml, write_yaml

LR, WIDTH = "model.init_args.optimizer.init_args.lr", "model.init_args.network.init_args.width"
CONFIG: dict[str, Any] = {
    "seed_everything": 1,
    "optimizer": None,
    "trainer": {"max_steps": 900, "val_check_interval": 50, "check_val_every_n_epoch": None, "accumulate_grad_batches": 1},
    "model": {
        "class_path": "M",
        "init_args": {
            "network": {"class_path": "N", "init_args": {"width": 8, "heads": 2, "dropout": 0.1}},
            "optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.1}},
            "schedule": None,
            "dropout": 0.2,
        },
    },
    "data": {"class_path": "D", "init_args": {"window": 16}},
}


def typed(*words: str) -> Definition:
    return read_definition(told_of(parser().parse_args(["--config", "chorales", *words])))


def test_a_search_is_read_as_it_is_written() -> None:
    text = """
        name: x
        config: [a, b]
        overrides: [--trainer.max_steps, "600"]
        space:
          grid: {depth: [2, 4], kind: [null, true, "1e-4"]}
          random: {n: 3, seed: 5, space: {lr: "loguniform(1e-4, 1e-2, digits=3)", width: [64, 1e-2]}}
          when: [{if: {kind: [true, null]}, space: {beta: "uniform(0, 1)"}}]
          constraints: ["width > depth"]
        seeds: [0, 4]
        objectives: [{metric: val/loss}, "max:val/groove:last"]
        rule: {name: halving, factor: 2, rungs: [10, 30]}
        slots: 2
        most: {trials: 9, hours: 1.5}
    """
    definition = read_definition(read_yaml(text))
    assert definition.random is not None
    assert definition.random.spaces[0]["width"].arguments == (64, 0.01)
    assert definition.grid[0]["kind"] == (None, True, "1e-4")
    assert definition.objectives[1] == Objective("val/groove", "max", "last")
    assert read_definition(read_yaml(write_yaml(definition.told()))) == definition


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gird: {a: [1]}", "has no key 'gird'. Did you mean 'grid'"),
        ("grid: {a: 1}", r"a in the grid is a list of values, got 1. For this one alone: \[1\]"),
        ("grid: {a: []}", "a in the grid has no values"),
        ("grid: {a: [1, 1]}", "a has 1 twice"),
        ("grid: {a: [.nan]}", "which no configuration can hold"),
        ('grid: {a: "uniform(0, 1)"}', "put it under 'random'"),
        ("grid: {a: [1], a: [2]}", "The key 'a' stands twice"),
        ("grid: {}", "grid is empty|The grid is empty"),
        ("random: {space: {a: [1]}}", "'random' needs n"),
        ("random: {n: 2}", "nothing to draw from"),
        ("random: {n: 2, space: {a: 'unifrom(0, 1)'}}", "'random', a: There is no distribution 'unifrom'. Did you mean 'uniform'"),
        ("random: {n: 2, space: {a: [1]}}\ngrid: {a: [1]}", "a is given twice, in the grid and to be drawn"),
        ("grid: {a: [1]}\nwhen: [{if: {a: 1}, space: {a: [2]}}]", "a is given twice, everywhere and where a condition holds"),
        ("grid: {a: [1]}\nwhen: [{if: {a: 1}}]", "needs both 'if'"),
        ("grid: {seed_everything: [1, 2]}", "--seeds says"),
        ("grid: {trainer.max_steps: [1, 2]}", "cannot be searched over"),
        ("seeds: [1, 1]\ngrid: {a: [1]}", "The seed 1 stands twice"),
        ("seeds: []\ngrid: {a: [1]}", "At least one seed"),
        ("rule: {name: halving, factor: 1.5}\ngrid: {a: [1]}", "its factor is 2 or more, got 1.5"),
        ("rule: {name: halving, rungs: [30, 10]}\ngrid: {a: [1]}", "rungs are steps that rise, got 30, 10"),
        ("rule: halvin\ngrid: {a: [1]}", "Did you mean 'halving'"),
        ("objectives: [val/loss, 'max:val/loss']\ngrid: {a: [1]}", "The same metric stands twice"),
        ("objectives: ['top:val/loss']\ngrid: {a: [1]}", "An objective is a metric such as"),
        ("constraints: ['a +']\ngrid: {a: [1]}", "cannot be read"),
        ("name: ../x\ngrid: {a: [1]}", "A search's name is"),
        ("most: {trials: 0}\ngrid: {a: [1]}", "trials is a whole number above 0, got 0"),
        ("[1]", "A search is a mapping"),
        ("a: [", "This is no YAML"),
    ],
)
def test_what_cannot_be_meant_is_said(text: str, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        read_definition(read_yaml(text))


# The command line.


def test_the_command_line_says_what_a_file_would() -> None:
    definition = typed(
        *("--grid", "depth=2,4", "kind=[1, 2],null", "--random", "20", "lr=loguniform(1e-4, 1e-2)", "width=64,1e-2", "--random-seed", "3"),
        *("--halving", "--rungs", "100,300", "--seeds", "0,1", "--objective", "val/loss", "max:val/x", "--trainer.max_steps", "600"),
        *("--most-trials", "9", "--slots", "2"),
    )
    assert definition.grid == ({"depth": (2, 4), "kind": ([1, 2], None)},)
    assert definition.random is not None
    assert (definition.random.n, definition.random.seed) == (20, 3)
    assert definition.random.spaces[0]["lr"] == read_distribution("loguniform(1e-4, 1e-2)")
    assert definition.random.spaces[0]["width"].arguments == (64, 0.01)
    assert (definition.rule.name, definition.rule.factor, definition.rule.rungs) == ("halving", 3, (100, 300))
    assert definition.overrides == ("--trainer.max_steps", "600")
    assert (definition.seeds, definition.slots, definition.most.trials) == ((0, 1), 2, 9)
    assert (definition.name, definition.config) == ("search-chorales", ("chorales",))


def test_the_command_line_is_laid_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "wide.yaml"
    file.write_text("random: {n: 5, space: {lr: [1, 2, 3]}}\n")
    definition = typed("--space", str(file), "--random", "9", "--grid", "depth=1,2")
    assert definition.random is not None
    assert (definition.name, definition.random.n, definition.grid) == ("wide", 9, ({"depth": (1, 2)},))
    assert definition.random.spaces[0]["lr"].arguments == (1, 2, 3)
    with pytest.raises(SearchError, match=r"lr is given twice, by --random and in the file"):
        typed("--space", str(file), "--random", "9", "lr=1,2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--grid", "depth"), "--grid takes KEY=VALUES"),
        (("--grid", "depth=1,2", "--grid", "depth=3"), "depth is given twice by --grid"),
        (("--random", "lr=uniform(0,1)"), "--random begins with how many"),
        (("--halving", "--median", "--grid", "a=1"), "are two rules"),
        (("--halving", "1", "--grid", "a=1"), "its factor is 2 or more"),
        (("--rungs", "1,2", "--grid", "a=1"), "--rungs are for a rule"),
        (("--seeds", "a,b", "--grid", "a=1"), "--seeds is a list of whole numbers"),
        (("--slots", "0"), "expected a whole number above 0"),
        (("stray", "--grid", "a=1"), "Unexpected argument stray"),
        (("--space", "nowhere.yaml"), "nowhere.yaml cannot be read"),
    ],
)
def test_a_command_line_that_cannot_be_meant_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises((SearchError, UsageError), match=message):
        typed(*words)


# What keys stand for.


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("lr", LR),
        ("optimizer.lr", LR),
        ("network.width", WIDTH),
        ("model.network.width", WIDTH),
        (WIDTH, WIDTH),
        ("optimizer", "model.init_args.optimizer"),
        ("network.dropout", "model.init_args.network.init_args.dropout"),
        ("model.dropout", "model.init_args.dropout"),
        ("schedule.warmup_steps", "model.init_args.schedule.init_args.warmup_steps"),
    ],
)
def test_a_unique_ending_will_do(short: str, full: str) -> None:
    definition = in_full(Definition("x", grid=({short: (1, 2)},)), CONFIG)
    assert definition.parameters() == [full]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("dropout", r"'dropout' may be any of model.init_args.network.init_args.dropout, model.init_args.dropout. Write more"),
        ("widht", "There is no key 'widht' in the configuration. Did you mean 'width'"),
        ("optimizer.beta", "There is no key 'optimizer.beta'"),
        ("zzz", "fit --config NAME --print_config"),
    ],
)
def test_keys_that_are_not_there_or_many_are_refused(key: str, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        in_full(Definition("x", grid=({key: (1, 2)},)), CONFIG)


def test_what_lies_below_a_varied_class_need_not_be_there() -> None:
    definition = in_full(Definition("x", grid=({"optimizer": ("Lion", "AdamW"), "optimizer.beta": (1,)},)), CONFIG)
    assert definition.parameters() == ["model.init_args.optimizer", "model.init_args.optimizer.init_args.beta"]


def test_two_endings_of_one_key_are_one_key_given_twice() -> None:
    with pytest.raises(SearchError, match=rf"{LR} is given twice, once as"):
        in_full(Definition("x", grid=({"lr": (1,), "optimizer.lr": (2,)},)), CONFIG)


def test_constraints_and_conditions_mean_the_space_first() -> None:
    told = {
        "grid": {"network.dropout": [0, 0.5]},
        "when": [{"if": {"dropout": 0}, "space": {"lr": [1]}}],
        "constraints": ["dropout < heads"],
    }
    definition = in_full(read_definition(told), CONFIG)
    network = "model.init_args.network.init_args"
    assert definition.constraints == (f"{network}.dropout < {network}.heads",)
    assert list(definition.when[0].holds_for) == [f"{network}.dropout"]
    assert in_full(definition, CONFIG) == definition


def test_short_names_mean_what_they_shorten() -> None:
    keys = [LR, WIDTH, "model.init_args.dropout", "model.init_args.network.init_args.dropout"]
    short = short_names(keys)
    assert short[LR] == "lr"
    assert {full_key(name, dict.fromkeys(keys)) for name in short.values()} == set(keys)


# Rungs.


@pytest.mark.parametrize(
    ("rule", "rungs"),
    [
        ({"name": "none"}, (900,)),
        ({"name": "halving"}, (100, 300, 900)),
        ({"name": "halving", "factor": 2}, (250, 450, 900)),
        ({"name": "halving", "rungs": [120, 300]}, (150, 300, 900)),
        ({"name": "median", "rungs": [100, 900]}, (100, 900)),
        ({"name": "halving", "min_steps": 50, "factor": 4}, (50, 200, 800, 900)),
    ],
)
def test_rungs_fall_on_validations_and_end_where_the_training_does(rule: dict[str, Any], rungs: tuple[int, ...]) -> None:
    definition, said = with_rungs(read_definition({"grid": {"a": [1]}, "rule": rule}), CONFIG)
    assert definition.rule.rungs == rungs
    assert any("moved to step 150" in each for each in said) == (rule.get("rungs") == [120, 300])
    assert with_rungs(definition, CONFIG)[0] == definition


@pytest.mark.parametrize(
    ("trainer", "rungs", "message"),
    [
        ({"max_steps": -1}, [100], "needs trainer.max_steps, where every trial ends, got -1"),
        ({"max_steps": 900}, [100, 1000], "step 1,000 lies beyond trainer.max_steps, 900"),
    ],
)
def test_rungs_that_cannot_be_are_refused(trainer: dict[str, Any], rungs: list[int], message: str) -> None:
    definition = read_definition({"grid": {"a": [1]}, "rule": {"name": "halving", "rungs": rungs}})
    with pytest.raises(SearchError, match=message):
        with_rungs(definition, {"trainer": trainer})
