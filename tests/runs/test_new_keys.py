"""A run from before a class had an argument is what it was: the argument at its default is no change, at another value it is one."""

from __future__ import annotations

from typing import Any

import pytest

from musictrain.runs.config_changes import config_changes, without_new_defaults

DECODER = "musictrain.models.Decoder"


def config(**arguments: Any) -> dict[str, Any]:
    return {"model": {"init_args": {"network": {"class_path": DECODER, "init_args": {"d_model": 32, **arguments}}}}}


def changed(was: Any, now: Any) -> list[tuple[str, Any, Any]]:
    return list(config_changes(was, without_new_defaults(was, now)))


def test_a_new_argument_at_its_default_is_no_change():
    assert changed(config(), config(attention_dropout=0.0, stochastic_depth=0.0)) == []


def test_a_new_argument_at_another_value_is_a_change():
    assert changed(config(), config(attention_dropout=0.1)) == [("model.init_args.network.init_args.attention_dropout", None, 0.1)]


def test_an_argument_that_was_there_before_is_compared_whatever_its_default():
    assert changed(config(dropout=0.3), config(dropout=0.1)) == [("model.init_args.network.init_args.dropout", 0.3, 0.1)]


def test_a_tuple_that_is_a_default_is_written_as_a_list():
    was = {"class_path": "musictrain.MusicDataModule", "init_args": {}}
    assert changed(was, {**was, "init_args": {"transpose": [-5, 6], "velocity_jitter": 0}}) == []
    assert changed(was, {**was, "init_args": {"transpose": [0, 0]}}) == [("init_args.transpose", None, [0, 0])]


def test_callbacks_in_a_list_are_looked_into():
    was = {"callbacks": [{"class_path": DECODER, "init_args": {"d_model": 4}}]}
    now = {"callbacks": [{"class_path": DECODER, "init_args": {"d_model": 4, "stochastic_depth": 0.0}}]}
    assert changed(was, now) == []


@pytest.mark.parametrize("class_path", ["nowhere.Nothing", "musictrain.Nothing", "int", None])
def test_of_a_class_that_is_not_there_every_new_argument_is_a_change(class_path):
    was = {"class_path": class_path, "init_args": {}}
    assert changed(was, {"class_path": class_path, "init_args": {"a": 0}}) == [("init_args.a", None, 0)]
