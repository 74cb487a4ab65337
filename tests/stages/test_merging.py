"""Laws of laying one configuration over another."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.stages.merging import merged, value_at, with_value

LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["a", "b"]) | st.lists(st.integers(0, 3), max_size=2)
KEYS = st.sampled_from(["trainer", "model", "data", "init_args", "lr"])
CONFIGS = st.recursive(
    st.dictionaries(KEYS, LEAVES, max_size=3), lambda inner: st.dictionaries(KEYS, LEAVES | inner, max_size=3), max_leaves=8
)


def paths(config: Any, path: str = "") -> list[str]:
    if not isinstance(config, dict) or not config:
        return [path]
    return [leaf for key, value in config.items() for leaf in paths(value, f"{path}.{key}" if path else key)]


@given(CONFIGS)
def test_nothing_laid_over_changes_nothing_and_a_configuration_over_itself_is_itself(config: dict[str, Any]) -> None:
    assert merged(config, {}) == config
    assert merged({}, config) == config
    assert merged(config, config) == config


@given(CONFIGS, CONFIGS, CONFIGS)
def test_what_lies_above_counts_and_layers_can_be_taken_together(low: Any, middle: Any, high: Any) -> None:
    before = copy.deepcopy((low, middle, high))
    result = merged(merged(low, middle), high)
    assert (low, middle, high) == before, "nothing that was handed in is changed"
    for path in paths(high):
        if path and value_at(high, path) != {}:
            assert value_at(result, path) == value_at(high, path)
    if not any(isinstance(value_at(low, path), dict) != isinstance(value_at(middle, path), dict) for path in (*paths(low), *paths(middle))):
        assert merged(low, merged(middle, high)) == result or any(value_at(high, path) == {} for path in paths(high))


def test_another_class_takes_the_place_of_the_whole_part() -> None:
    low = {"network": {"class_path": "a.Decoder", "init_args": {"width": 3}}}
    assert merged(low, {"network": {"class_path": "a.Recurrent"}}) == {"network": {"class_path": "a.Recurrent"}}
    same = merged(low, {"network": {"class_path": "a.Decoder", "init_args": {"depth": 1}}})
    assert same["network"]["init_args"] == {"width": 3, "depth": 1}
    assert merged(low, {"network": {"init_args": {"width": 5}}})["network"] == {"class_path": "a.Decoder", "init_args": {"width": 5}}


def test_a_plus_adds_to_a_list_and_only_to_a_list() -> None:
    assert merged({"callbacks": [1]}, {"callbacks+": [2]}) == {"callbacks": [1, 2]}
    assert merged({}, {"trainer": {"callbacks+": [2]}}) == {"trainer": {"callbacks": [2]}}
    assert merged({"callbacks": [1]}, {"callbacks": [2]}) == {"callbacks": [2]}
    with pytest.raises(ValueError, match=r"trainer\.callbacks\+ adds to a list, and got str"):
        merged({"trainer": {"callbacks": "x"}}, {"trainer": {"callbacks+": [2]}})
    with pytest.raises(ValueError, match=r"callbacks\+ adds to a list, and got int"):
        merged({"callbacks": [1]}, {"callbacks+": 2})


def test_a_value_is_set_without_touching_its_neighbours() -> None:
    config = {"trainer": {"max_steps": 3, "callbacks": [{"a": 1}]}}
    assert with_value(config, "trainer.max_steps", 5)["trainer"] == {"max_steps": 5, "callbacks": [{"a": 1}]}
    assert config["trainer"]["max_steps"] == 3
