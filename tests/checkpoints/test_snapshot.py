"""A snapshot is a copy that training cannot change, and holds only what can be read back safely."""

from __future__ import annotations

import argparse
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from musictrain.checkpoints.snapshot import Buffers, UnsafeStateError, first_not_finite, plain_size, snapshot


def tree() -> dict[str, Any]:
    weight = torch.arange(12.0).reshape(3, 4)
    return {
        "state_dict": OrderedDict(a=weight, tied=weight, view=weight[1:], transposed=weight.T, half=weight.to(torch.bfloat16)),
        "values": [1, 2.5, "text", None, True, b"bytes", (3, {4}), torch.Size([2, 3]), torch.float32],
        "empty": torch.empty(0),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }


def test_a_copy_equals_its_original_and_no_longer_follows_it() -> None:
    original = tree()
    copy = snapshot(original)
    original["state_dict"]["a"].zero_()
    original["values"].append("later")
    fresh = tree()
    assert copy["values"] == fresh["values"]
    assert list(copy["state_dict"]) == list(fresh["state_dict"])
    for name, tensor in fresh["state_dict"].items():
        assert torch.equal(copy["state_dict"][name], tensor)
        assert copy["state_dict"][name].stride() == tensor.stride()
    assert type(copy["parameter"]) is torch.Tensor


def test_tensors_that_share_memory_share_it_in_the_copy() -> None:
    copy = snapshot(tree())["state_dict"]
    copy["a"][1, 0] = 99.0
    assert copy["tied"][1, 0] == copy["view"][0, 0] == copy["transposed"][0, 1] == 99.0
    assert plain_size(copy) == 12 * 4 + 12 * 2


def test_a_small_view_of_much_memory_costs_only_its_own_bytes() -> None:
    copy = snapshot({"view": torch.zeros(1000)[3:5]})
    assert copy["view"].untyped_storage().nbytes() == 8


def test_buffers_are_used_again_once_they_are_released() -> None:
    buffers = Buffers()
    first = snapshot({"a": torch.ones(100)}, buffers)
    address = first["a"].data_ptr()
    other = snapshot({"a": torch.ones(100)}, buffers)
    assert other["a"].data_ptr() != address, "the first copy is still being written"
    buffers.release()
    again = snapshot({"a": torch.full((100,), 2.0)}, buffers)
    assert again["a"].data_ptr() in (address, other["a"].data_ptr())
    assert torch.equal(again["a"], torch.full((100,), 2.0))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (lambda: None, "function"),
        (np.float64(0.5), "float64"),
        (Path("x"), "PosixPath"),
        (argparse.Namespace(a=1), "Namespace"),
        (defaultdict(int, a=1), "defaultdict"),
        (np.zeros(3), "ndarray"),
    ],
    ids=["lambda", "numpy scalar", "path", "object", "defaultdict", "array"],
)
def test_what_cannot_be_read_back_safely_is_named_by_its_key(value: Any, kind: str) -> None:
    with pytest.raises(UnsafeStateError, match=rf"\['callbacks'\]\['Mine'\]\[1\] is a .*{kind}, which cannot be read back") as error:
        snapshot({"callbacks": {"Mine": [0, value]}})
    assert "Convert it where it comes from" in str(error.value)


def test_a_key_that_is_no_plain_value_is_named_too() -> None:
    with pytest.raises(UnsafeStateError, match="PosixPath"):
        snapshot({"callbacks": {Path("x"): 1}})


def test_the_first_tensor_that_is_not_finite_is_named() -> None:
    assert first_not_finite(tree()) == ""
    bad = {"ints": torch.tensor([1]), "optimizer_states": [{"state": {0: {"exp_avg": torch.tensor([1.0, float("inf")])}}}]}
    assert first_not_finite(bad) == "['optimizer_states'][0]['state'][0]['exp_avg']"
    # A sum of finite numbers may overflow; that is no fault of theirs.
    assert first_not_finite({"large": torch.full((8,), 1.5e308, dtype=torch.float64)}) == ""


def test_the_versions_of_a_modules_layers_come_along() -> None:
    state = torch.nn.BatchNorm1d(2).state_dict()
    assert snapshot({"state_dict": state})["state_dict"]._metadata == state._metadata
