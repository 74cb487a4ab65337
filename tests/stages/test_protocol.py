"""What a protocol may say, and what is said to one that cannot be meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from musictrain.stages.protocol import HandOver, ProtocolError, read_protocol
from musictrain.stages.references import filled, references_in
from tests.stages.small_protocols import protocol_of, resolved

TEACHER = {"model": {"init_args": {"distillation": {"init_args": {"teacher": "stage:a@last"}}}}}


def test_what_is_left_out_is_the_best_weights_of_the_stage_before() -> None:
    first, second, third = protocol_of({}, {}, {"hand_over": {"from": "a", "version": "average", "vocabulary": "extend"}}).stages
    assert first.hand_over is None
    assert second.hand_over == HandOver("a", "best", optimizer=False, vocabulary="same")
    assert third.hand_over == HandOver("a", "average", of=5, vocabulary="extend")
    assert protocol_of({}, {"hand_over": "nothing"}).stages[1].hand_over is None
    assert protocol_of({}, {"hand_over": "last"}).stages[1].hand_over == HandOver("a", "last")


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"budgett": {"steps": 3}}, "Stage 'a' has an unknown key 'budgett'. Did you mean 'budget'?"),
        ({"budget": None}, "Stage 'a' has no budget. Say how long it trains: budget: {steps: 400}"),
        ({"budget": {}}, "Stage 'a' has no budget"),
        ({"budget": {"step": 3}}, "The budget of stage 'a' has an unknown key 'step'. Did you mean 'steps'?"),
        ({"budget": {"steps": 0}}, "a budget of steps is a whole number above 0, got 0"),
        ({"budget": {"steps": True}}, "a budget of steps is a whole number above 0, got True"),
        ({"budget": {"minutes": -1}}, "a budget of minutes is a number above 0, got -1"),
        ({"budget": 300}, "its budget is a mapping, got 300"),
        ({"name": "a/b"}, "Stage 1 cannot be called 'a/b'"),
        ({"name": None}, "Stage 1 needs a name"),
        ({"extends": [3]}, "'extends' is a recipe, a file or an earlier stage, or a list of them, got 3"),
        ({"config": {"trainer": {"max_steps": 5}}}, "Stage 'a' sets trainer.max_steps, which its budget says"),
        ({"config": {"trainer.max_time": "1"}}, "Stage 'a' sets trainer.max_time, which its budget says"),
        ({"config": {"ckpt_path": "x"}}, "Stage 'a' sets 'ckpt_path', which the protocol sees to"),
        ({"config": [1]}, "Stage 'a': 'config' is a mapping of keys as fit takes them"),
        ({"go_on": "yes"}, "'go_on' is true or false, got 'yes'"),
        ({"hand_over": "best"}, "Stage 'a' is the first: no stage hands anything over to it"),
    ],
)
def test_a_stage_that_cannot_be_meant_is_refused(told: dict[str, Any], message: str) -> None:
    with pytest.raises(ProtocolError) as error:
        protocol_of(told)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"hand_over": {"from": "aa"}}, "takes over from 'aa', which is no stage before it. Did you mean 'a'?"),
        ({"hand_over": {"from": "b"}}, "takes over from 'b', which is no stage before it"),
        ({"hand_over": {"form": "a"}}, "has an unknown key 'form'. Did you mean 'from'?"),
        ({"hand_over": "bets"}, "is one of best, last, average, got 'bets'. Did you mean 'best'?"),
        ({"hand_over": {"version": "average", "optimizer": True}}, "an average of weights has no optimizer"),
        ({"hand_over": {"of": 3}}, "'of' says how many versions an average is of, and the version is 'best'"),
        ({"hand_over": {"version": "average", "of": 1}}, "an average is 'of' 2 versions or more, got 1"),
        ({"hand_over": "best", "config": {"init_from": "x"}}, "has both 'hand_over' and init_from: x"),
        ({"name": "a"}, "Two stages are called 'a'"),
    ],
)
def test_a_hand_over_that_cannot_be_meant_is_refused(told: dict[str, Any], message: str) -> None:
    with pytest.raises(ProtocolError) as error:
        protocol_of({}, told)
    assert message in str(error.value)


def test_what_is_no_protocol_is_told_apart() -> None:
    for told, message in (
        ({"trainer": {}}, "This is the configuration of one fit"),
        ({"stages": []}, "A protocol needs 'stages', a list of at least one"),
        ({"stage": []}, "unknown key 'stage'. Did you mean 'stages'?"),
        (["a"], "A protocol is a mapping with 'stages', got list"),
    ):
        with pytest.raises(ProtocolError) as error:
            read_protocol(told, "x")
        assert message in str(error.value)


def test_a_stage_extends_recipes_files_and_earlier_stages_in_layers(tmp_path: Path) -> None:
    (tmp_path / "below.yaml").write_text(yaml.safe_dump({"extends": "chorales", "model": {"init_args": {"width": 1, "depth": 1}}}))
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"extends": "below.yaml", "model": {"init_args": {"width": 2}}}))
    protocol = protocol_of(
        {"extends": "own.yaml", "config": {"data": {"init_args": {"window": 8}}}},
        {"extends": "a", "budget": {"minutes": 2}},
        {"extends": ["folk", "a"], "config": {"seed_everything": 5}},
        config={"seed_everything": 3, "model": {"init_args": {"depth": 9}}},
    )
    a, b, c = (each.config for each in resolved(protocol, tmp_path).values())
    assert a["data"]["init_args"] == {"corpus": "chorales", "window": 8}
    assert a["model"]["init_args"] == {"width": 2, "depth": 9}
    assert (a["seed_everything"], b["seed_everything"], c["seed_everything"]) == (3, 3, 5)
    assert {key: value for key, value in b.items() if key != "trainer"} == {key: value for key, value in a.items() if key != "trainer"}
    assert a["trainer"] == {"max_steps": 100, "max_epochs": -1, "max_time": None}
    assert b["trainer"] == {"max_steps": -1, "max_epochs": -1, "max_time": "00:00:02:00"}
    assert c["trainer"]["val_check_interval"] == 50, "of folk, beneath a"
    assert c["data"]["init_args"]["corpus"] == "chorales", "of a, over folk"


def test_a_stopping_rule_takes_the_place_of_another(tmp_path: Path) -> None:
    other = {"class_path": "musictrain.callbacks.EMAWeightAveraging"}
    old = {"class_path": "musictrain.callbacks.musical_early_stopping.MusicalEarlyStopping", "init_args": {"patience": 9}}
    config = {"trainer": {"callbacks": [other, old]}}
    protocol = protocol_of(
        {"config": config, "budget": {"stop": {"patience": 2}}}, {"extends": "a", "budget": {"steps": 4, "stop": "val/loss"}}
    )
    a, b = (each.config["trainer"] for each in resolved(protocol, tmp_path).values())
    assert [each.get("init_args") for each in a["callbacks"]] == [None, {"patience": 2}]
    assert a["max_steps"] == -1
    assert [each.get("init_args") for each in b["callbacks"]] == [None, {"watch": "val/loss"}]


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("chorals", "neither an earlier stage nor a file nor a recipe. Did you mean 'chorales'?"),
        ("c", "Stage 'b' extends 'c', which is no stage before it"),
        ("round.yaml", "files that extend one another in a circle: round.yaml -> about.yaml -> round.yaml"),
        ("list.yaml", "which holds no mapping of keys"),
        ("protocol.yaml", "which is a protocol itself"),
    ],
)
def test_what_cannot_be_extended_is_refused(extends: str, message: str, tmp_path: Path) -> None:
    for name, told in {
        "round": {"extends": "about.yaml"},
        "about": {"extends": "round.yaml"},
        "list": [1],
        "protocol": {"stages": []},
    }.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(told))
    with pytest.raises(ProtocolError) as error:
        resolved(protocol_of({}, {"extends": extends}, {}), tmp_path)
    assert message in str(error.value)


def test_stages_that_extend_one_another_are_a_circle(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"extend one another in a circle: a -> c -> a"):
        resolved(protocol_of({"extends": "c"}, {}, {"extends": "a"}), tmp_path)
    assert resolved(protocol_of({"name": "folk"}, {"name": "b", "extends": "folk"}), tmp_path), "a stage may be called as its recipe"


def network(name: str) -> dict[str, Any]:
    return {"model": {"init_args": {"network": {"class_path": f"x.{name}"}}}}


def tokenizer(name: str) -> dict[str, Any]:
    return {"data": {"init_args": {"tokenizer": {"class_path": f"x.{name}"}}}}


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (network("Decoder"), network("Recurrent"), "their networks differ: Decoder there, Recurrent here. Say hand_over: nothing"),
        (tokenizer("Grid"), tokenizer("Remi"), "their tokenizers differ: Grid there, Remi here. Say vocabulary: extend"),
        ({"trainer": {"enable_checkpointing": False}}, {}, "it has trainer.enable_checkpointing: false"),
        ({"trainer": {"val_check_interval": 101}}, {}, "it ends after 100 batches and validates every 101"),
    ],
)
def test_a_hand_over_that_cannot_work_is_refused_before_anything_is_trained(first: Any, second: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError) as error:
        resolved(protocol_of({"config": first}, {"config": second}), tmp_path)
    assert message in str(error.value)
    assert resolved(protocol_of({"config": first}, {"config": second, "hand_over": "nothing"}), tmp_path)


def test_other_paths_to_a_class_and_other_arguments_of_a_network_can_be_handed_over(tmp_path: Path) -> None:
    one = {"model": {"init_args": {"network": {"class_path": "musictrain.Decoder", "init_args": {"dropout": 0.1}}}}}
    other = {"model": {"init_args": {"network": {"class_path": "musictrain.models.Decoder", "init_args": {"dropout": 0.3}}}}}
    assert resolved(protocol_of({"config": one}, {"config": other}), tmp_path)


def test_a_teacher_is_an_earlier_stage_by_configuration_alone(tmp_path: Path) -> None:
    config = resolved(protocol_of({}, {"config": TEACHER, "hand_over": "nothing"}), tmp_path)["b"].config
    (found,) = references_in(config)
    assert (found.key, found.stage, found.version) == ("model.init_args.distillation.init_args.teacher", "a", "last")
    told = filled(config, lambda stage, version: f"{stage}/{version}")
    assert told["model"]["init_args"]["distillation"]["init_args"]["teacher"] == "a/last"
    assert list(references_in(told)) == []
    for wrong, message in (
        ("stage:aa", "names the stage 'aa', which is none before it. Did you mean 'a'?"),
        ("stage:a@first", "say best or last"),
    ):
        with pytest.raises(ProtocolError) as error:
            resolved(protocol_of({}, {"config": {"init_from": wrong}}), tmp_path)
        assert message in str(error.value)
