"""Where two checkpoints differ, to the bit."""

from __future__ import annotations

import copy
import math
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from musictrain.checkpoints.comparing import Difference, differences, first_difference
from tests.checkpoints.some_trees import plain_load, train

OTHER_NAN = struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000001))[0]


def what(a: Any, b: Any) -> list[str]:
    return [str(each) for each in differences(a, b)]


def test_a_real_checkpoint_is_equal_to_itself_read_again(tmp_path: Path) -> None:
    path = train(tmp_path, steps=2)[-1]
    assert first_difference(plain_load(path), plain_load(path)) is None


def test_weights_come_first_then_optimizers_schedules_loops_callbacks_and_the_rest(tmp_path: Path) -> None:
    one, other = (plain_load(path) for path in train(tmp_path, steps=2))
    other["lr_schedulers"][0]["last_epoch"], other["callbacks"]["Mine"] = 9, {}
    keys = [each.key.split("]")[0][2:-1] for each in differences(dict(reversed(one.items())), other)]
    order = ["state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "global_step"]
    assert list(dict.fromkeys(keys)) == order


def test_a_tensor_says_how_many_elements_differ_where_how_and_how_far() -> None:
    one = torch.zeros(2, 3)
    other = one.clone()
    other[0, 2], other[1, 0] = 0.5, -2.0
    assert what({"w": one}, {"w": other}) == ["['w']: 2 of 6 elements differ, first at [0, 2]: 0.0 and 0.5; at most 2 apart"]
    assert what(torch.tensor(3), torch.tensor(5)) == ["content: 1 of 1 elements differs, at []: 3 and 5, 2 apart"]
    assert what(torch.tensor([True]), torch.tensor([False])) == ["content: 1 of 1 elements differs, at [0]: True and False, 1 apart"]


def test_bits_count_not_values() -> None:
    zeros = torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0])
    assert what(*zeros) == ["content: 1 of 2 elements differs, at [0]: 0.0 and -0.0, 0 apart"]
    quiet = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)
    assert what(quiet, quiet.clone()) == []
    assert what(quiet[:1], quiet[1:]) == [
        "content: 1 of 1 elements differs, at [0]: nan (0x7fc00000) and nan (0x7fc00001), no finite number apart"
    ]
    assert what([0.0, math.nan, 1j], [0.0, math.nan, 1j]) == []
    assert what([0.0, math.nan], [-0.0, OTHER_NAN]) == ["[0]: 0.0 and -0.0", "[1]: nan and nan"]


def test_nan_and_infinities_do_not_hide_how_far_the_others_are_apart() -> None:
    one, other = torch.tensor([1.0, math.inf, math.inf]), torch.tensor([1.25, math.inf, math.nan])
    assert what(one, other) == [
        "content: 2 of 3 elements differ, first at [0]: 1.0 and 1.25; at most 0.25 apart, nan and infinities left out"
    ]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (torch.zeros(2), torch.zeros(2, 1), "shape (2,) and (2, 1)"),
        (torch.zeros(2), torch.zeros(2).double(), "dtype torch.float32 and torch.float64"),
        (torch.zeros(2), torch.zeros(2).to_sparse(), "layout torch.strided and torch.sparse_coo"),
        (torch.zeros(2), [0.0, 0.0], "a tensor of shape (2,) (Tensor) and [0.0, 0.0] (list)"),
        (1, 1.0, "1 (int) and 1.0 (float)"),
        (1, True, "1 (int) and True (bool)"),
        (None, 0, "None (NoneType) and 0 (int)"),
        ("a", "b", "'a' and 'b'"),
        ({1, 2}, {1, 3}, "{1, 2} and {1, 3}"),
        ((1,), [1], "(1,) (tuple) and [1] (list)"),
        (1j, -1j, "1j and (-0-1j)"),
        ("x" * 100, "y", f"'{'x' * 76}... and 'y'"),
    ],
)
def test_types_shapes_and_plain_values_count(a: Any, b: Any, expected: str) -> None:
    assert what({"k": a}, {"k": b}) == [f"['k']: {expected}"]


def test_kinds_and_order_of_dicts_devices_and_gradients_do_not_count() -> None:
    weight = torch.ones(2)
    one = {"state_dict": OrderedDict(a=weight, b=weight.t()), "x": 1}
    other = {"x": 1, "state_dict": {"b": weight.clone(), "a": torch.nn.Parameter(weight.clone())}}
    assert what(one, other) == []


def test_strides_do_not_count_but_elements_do() -> None:
    one = torch.arange(6.0).reshape(2, 3)
    assert what(one, one.t().contiguous().t()) == []
    assert what(one.t(), one.reshape(3, 2)) == ["content: 4 of 6 elements differ, first at [0, 1]: 3.0 and 1.0; at most 2 apart"]


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.int64, torch.complex64, torch.complex128]
)
def test_every_dtype_is_compared(dtype: torch.dtype) -> None:
    one = torch.arange(4).to(dtype)
    other = one.clone()
    other[3] = 7
    assert what(one, one.clone()) == []
    (found,) = what(one, other)
    assert found.startswith("content: 1 of 4 elements differs, at [3]: ")
    assert found.endswith("4 apart")


def test_empty_tensors_of_one_shape_are_equal() -> None:
    assert what(torch.empty(0, 3), torch.empty(0, 3)) == []
    assert what(torch.empty(0, 3), torch.empty(3, 0)) == ["content: shape (0, 3) and (3, 0)"]


def test_what_only_one_has_is_named_and_the_rest_still_compared() -> None:
    one = {"a": 1, "list": [1, 2, 3], "deep": {0: {"x": 1}}}
    other = {"b": 1, "list": [1, 5], "deep": {0: {"x": 2}}}
    assert what(one, other) == [
        "['a']: only the first has it",
        "['list']: 3 items and 2",
        "['list'][1]: 2 and 5",
        "['deep'][0]['x']: 1 and 2",
        "['b']: only the second has it",
    ]


def test_keys_to_ignore_are_passed_over_with_all_below_them_and_with_nothing_else() -> None:
    one = {"callbacks": {"Timer": {"elapsed": 1.0}, "TimerToo": 1}, "loops": [1]}
    other = {"callbacks": {"Timer": {"elapsed": 2.0}, "TimerToo": 2}, "loops": [2], "wall": 3}
    ignore = ["['callbacks']['Timer']", "['loops'][0]", "['wall']"]
    assert list(differences(one, other, ignore)) == [Difference("['callbacks']['TimerToo']", "1 and 2")]
    with pytest.raises(ValueError, match=r"Got 'callbacks' to ignore, expected a key such as"):
        list(differences(one, other, ["callbacks"]))


def test_the_first_difference_is_found_without_looking_further() -> None:
    class Unlooked(dict[str, Any]):
        def items(self) -> Any:
            raise AssertionError("looked further than the first difference")

        __iter__ = items

    one = {"state_dict": {"w": torch.zeros(1)}, "late": Unlooked(a=1)}
    other = {"state_dict": {"w": torch.ones(1)}, "late": Unlooked(a=1)}
    assert first_difference(one, other) == Difference("['state_dict']['w']", "1 of 1 elements differs, at [0]: 0.0 and 1.0, 1 apart")


LEAVES = st.one_of(
    *(st.none(), st.booleans(), st.integers(-9, 9), st.floats(), st.text(max_size=2)),
    st.lists(st.floats(width=32), max_size=3).map(torch.tensor),
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3), max_leaves=6
)


@given(TREES)
def test_a_copy_never_differs(tree: Any) -> None:
    assert first_difference(tree, copy.deepcopy(tree)) is None


@given(TREES, TREES)
def test_two_trees_differ_in_as_many_places_whichever_comes_first(one: Any, other: Any) -> None:
    assert {each.key for each in differences(one, other)} == {each.key for each in differences(other, one)}


@given(st.lists(st.floats(width=32), min_size=1, max_size=8), st.data())
def test_one_flipped_bit_is_found_at_its_place(values: list[float], data: st.DataObject) -> None:
    one = torch.tensor(values, dtype=torch.float32)
    position, bit = data.draw(st.integers(0, len(values) - 1)), data.draw(st.integers(0, 31))
    other = one.view(torch.int32).clone()
    other[position] ^= torch.tensor(1 << bit if bit < 31 else -(1 << 31), dtype=torch.int32)
    found = first_difference(one, other.view(torch.float32))
    assert found is not None
    assert f"1 of {len(values)} elements differs, at [{position}]" in found.what
