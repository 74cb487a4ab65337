"""Tensors inside a checkpoint, packed and unpacked: the same bits, dtypes, shapes and identities; bad data is refused by name."""

from __future__ import annotations

import copy
import gzip
import io
import warnings
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from musictrain.checkpoints.float_codec import BLOCK, HEADER_BYTES
from musictrain.checkpoints.packed_tensor import DTYPES, MARK, PackedTensor, packed_tensor
from musictrain.checkpoints.packing import PACKINGS, PackedSizes, PackingError, pack, packed_sizes, unpack

LARGE = (48, 100)


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape or LARGE, generator=torch.Generator().manual_seed(seed)).mul_(0.02).to(dtype)


def trained() -> dict[str, Any]:
    """A checkpoint as Lightning lays it out, after a few real steps."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(50, 64), nn.Linear(64, 64), nn.Linear(64, 50))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for _ in range(3):
        tokens = torch.randint(20, (16,))
        nn.functional.cross_entropy(network(tokens), tokens).backward()
        optimizer.step()
    averages = {name: 0.9 * value for name, value in network.state_dict().items()}
    return {
        "epoch": 1,
        "state_dict": network.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "current_model_state": averages,
        "hyper_parameters": {"betas": (0.9, 0.99), "name": None},
    }


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def assert_same(one: Any, other: Any) -> None:
    """The same tree: types, keys in their order, and every bit of every tensor."""
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
        assert torch.equal(bits(one), bits(other))
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            assert_same(first, second)
    else:
        assert one == other


def saved_and_loaded(tree: Any) -> Any:
    file = io.BytesIO()
    torch.save(tree, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def is_packed(value: Any) -> bool:
    return isinstance(value, dict) and MARK in value


@pytest.mark.parametrize("which", PACKINGS)
def test_a_checkpoint_comes_back_through_a_file_bit_for_bit(which: str) -> None:
    tree = trained()
    before = copy.deepcopy(tree)
    assert_same(unpack(saved_and_loaded(pack(tree, which))), before)
    assert_same(tree, before)


def test_the_optimizer_and_averages_are_packed_and_the_weights_left_readable() -> None:
    tree = trained()
    packed = saved_and_loaded(pack(tree, "optimizer"))
    assert_same(packed["state_dict"], tree["state_dict"])
    assert is_packed(packed["optimizer_states"][0]["state"][0]["exp_avg"])
    assert is_packed(packed["optimizer_states"][0]["state"][0]["exp_avg_sq"])
    assert is_packed(packed["current_model_state"]["1.weight"])
    assert not is_packed(packed["current_model_state"]["1.bias"]), "too small to be worth it"


def test_all_packs_the_weights_too_and_none_nothing() -> None:
    tree = trained()
    assert is_packed(pack(tree, "all")["state_dict"]["1.weight"])
    assert pack(tree, "none") is tree


def test_an_optimizer_goes_on_from_an_unpacked_state() -> None:
    weight = nn.Parameter(numbers())
    optimizer, other = (torch.optim.AdamW([weight]) for _ in range(2))
    weight.grad = numbers(seed=1)
    optimizer.step()
    other.load_state_dict(unpack(saved_and_loaded(pack({"optimizer_states": optimizer.state_dict()})))["optimizer_states"])
    assert_same(other.state_dict(), optimizer.state_dict())


def test_less_is_stored_and_the_sizes_say_how_much() -> None:
    tree = {"state_dict": {"weight": numbers(64, 128)}, "optimizer_states": [numbers(64, 128, seed=1)]}
    size = 64 * 128 * 4
    assert packed_sizes(tree) == PackedSizes(0, 2 * size, 2 * size)
    some, everything = packed_sizes(pack(tree)), packed_sizes(pack(tree, "all"))
    assert (some.num_packed, some.plain_bytes) == (1, 2 * size)
    assert (everything.num_packed, everything.plain_bytes) == (2, 2 * size)
    assert 1 < some.ratio < everything.ratio
    assert everything.ratio > 1.17
    assert str(some).startswith("0.066 MB in 0.060 MB (1.09x smaller, 1 tensor packed)")


def test_a_tree_without_tensors_has_size_zero() -> None:
    assert packed_sizes({"epoch": 1}) == PackedSizes(0, 0, 0)
    assert packed_sizes({}).ratio == 1.0


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(4096,), (2, 1, 2048), (1025, 3)])
def test_every_dtype_and_shape_comes_back(name: str, shape: tuple[int, ...]) -> None:
    tensor = numbers(*shape, dtype=DTYPES[name])
    packed = saved_and_loaded(pack([tensor]))
    assert is_packed(packed[0])
    assert_same(unpack(packed), [tensor])


def test_nan_payloads_denormals_and_negative_zeros_come_back() -> None:
    odd = torch.tensor([0x7FC12345, -0x3FEDCB, 0x7F800000, -0x800000, -0x80000000, 0, 1, 0x7FFFFF], dtype=torch.int32)
    tensor = torch.cat([numbers(5000), odd.view(torch.float32)])
    packed = pack([tensor])
    assert is_packed(packed[0])
    assert_same(unpack(packed), [tensor])


def quantized() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to drop them one day
        return torch.quantize_per_tensor(numbers(), 0.1, 0, torch.qint8)


def untouchables() -> dict[str, Any]:
    large = numbers()
    return {
        "small": numbers(1000),
        "noise": torch.frombuffer(
            bytearray(torch.randint(256, (8192,), generator=torch.Generator().manual_seed(0)).tolist()), dtype=torch.float32
        ),
        "part of a larger storage": large[:24],
        "its other part": large[24:],
        "transposed": numbers().T,
        "expanded": numbers(1).expand(2000),
        "integers": torch.arange(5000),
        "complex": torch.zeros(5000, dtype=torch.complex64),
        "sparse": torch.zeros(LARGE).to_sparse(),
        "meta": torch.zeros(LARGE, device="meta"),
        "quantized": quantized(),
        "parameter": nn.Parameter(numbers()),
        "needs a gradient": numbers().requires_grad_(),
        "empty": torch.zeros(0, 5),
        "scalar": torch.tensor(1.0),
        "text": "a",
        "set": {1, 2},
        "shape": torch.Size([1, 2]),
    }


@pytest.mark.parametrize("name", untouchables())
def test_what_cannot_be_packed_passes_as_it_is(name: str) -> None:
    value = untouchables()[name]
    tree = [value]
    assert pack(tree, "all") is tree
    assert unpack(tree) is tree


def test_what_is_there_twice_is_there_twice_again() -> None:
    tensor, inner = numbers(), {"moment": numbers(seed=1)}
    packed = pack({"a": tensor, "b": [tensor], "c": inner, "d": (inner,)})
    assert packed["a"] is packed["b"][0]
    assert packed["c"] is packed["d"][0]
    unpacked = unpack(saved_and_loaded(packed))
    assert unpacked["a"] is unpacked["b"][0]
    assert unpacked["c"] is unpacked["d"][0]
    assert packed_sizes(packed).num_packed == 2


def test_tensors_that_share_their_storage_share_it_again() -> None:
    tensor = numbers()
    tree = {"embedding": tensor.detach(), "head": tensor.detach()}
    packed = pack(tree, "all")
    assert packed["embedding"] is packed["head"]
    unpacked = unpack(saved_and_loaded(packed))
    unpacked["embedding"][0, 0] = 7.0
    assert unpacked["head"][0, 0] == 7.0


def test_two_shapes_of_one_storage_stay_together_unpacked() -> None:
    tensor = numbers()
    tree = {"flat": tensor.view(-1), "square": tensor}
    assert pack(tree, "all") is tree


def test_what_shares_memory_with_the_weights_stays_with_them() -> None:
    weight = numbers()
    tree = {"state_dict": {"weight": weight}, "copy": [weight.detach()]}
    assert pack(tree, "optimizer") is tree
    packed = pack(tree, "all")
    assert packed["copy"][0] is packed["state_dict"]["weight"]


def test_containers_keep_their_types_and_a_state_dict_its_versions() -> None:
    state = nn.Linear(64, 64).state_dict()
    tree = {"state_dict": state, "tuple": (numbers(), 1), "list": [numbers(seed=1)]}
    unpacked = unpack(saved_and_loaded(pack(tree, "all")))
    assert_same(unpacked, tree)
    assert type(unpacked["state_dict"]) is OrderedDict
    assert unpacked["state_dict"]._metadata == state._metadata  # type: ignore[attr-defined]


def test_packed_bytes_depend_on_the_numbers_alone() -> None:
    assert_same(pack([numbers()]), pack([numbers()]))


def test_an_unknown_packing_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match=r"'optimiser'; it may be none, optimizer, all, gzip\. Did you mean 'optimizer'\?"):
        pack({}, "optimiser")


def test_what_is_packed_is_not_packed_again() -> None:
    with pytest.raises(PackingError, match="packed already"):
        pack(pack([numbers()]))


def test_a_tree_that_contains_itself_or_never_ends_is_refused() -> None:
    loop: list[Any] = [numbers()]
    loop.append({"again": loop})
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for action in (pack, unpack, packed_sizes):
        with pytest.raises(PackingError, match="A list of the checkpoint contains itself"):
            action(loop)
        with pytest.raises(PackingError, match="nested too deeply"):
            action(deep)


def test_many_ways_to_the_same_tensor_take_no_time() -> None:
    tree: list[Any] = [numbers()]
    for _ in range(60):
        tree = [tree, tree]
    assert packed_sizes(unpack(pack(tree))).plain_bytes == 48 * 100 * 4


# Packed tensors that nobody packed.


def form() -> dict[str, Any]:
    packed = packed_tensor(numbers())
    assert packed is not None
    return packed


MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "a newer version": ({MARK: 3}, "version 3"),
    "no gzip": ({MARK: 2}, "is damaged"),
    "no version": ({MARK: None}, "version None"),
    "a version that equals 1": ({MARK: True}, "version True"),
    "a tensor for a version": ({MARK: torch.ones(2)}, "version tensor"),
    "another key": ({"more": 1}, "keys .*more"),
    "an unknown dtype": ({"dtype": "int32"}, "dtype 'int32'"),
    "a dtype that is no name": ({"dtype": ["float32"]}, "dtype .'float32'."),
    "a larger dtype": ({"dtype": "float64"}, "float64, 48 x 100. is damaged"),
    "a smaller dtype": ({"dtype": "bfloat16"}, "bfloat16, 48 x 100. is damaged"),
    "another shape": ({"shape": [48, 101]}, "float32, 48 x 101. is damaged"),
    "one number": ({"shape": [1]}, "is damaged"),
    "no dimension": ({"shape": []}, "shape"),
    "a negative size": ({"shape": [-48, -100]}, r"shape \[-48, -100\]"),
    "a size of zero": ({"shape": [0, 100]}, r"shape \[0, 100\]"),
    "a size that is no integer": ({"shape": [48.0, 100]}, r"shape \[48.0, 100\]"),
    "a shape that is no list": ({"shape": torch.Size(LARGE)}, "shape"),
    "a number for a shape": ({"shape": 4800}, "shape 4800"),
    "too many dimensions": ({"shape": [1] * 65}, "1 to 64 sizes"),
    "a size nobody can write down": ({"shape": [10**5000]}, "shape"),
    "sizes nobody can have": ({"shape": [2**62] * 64}, "too few"),
    "too little data": ({"shape": [2**40]}, "too few"),
    "empty data": ({"data": torch.zeros(0, dtype=torch.uint8)}, "0 bytes of data"),
    "zeros for data": ({"data": torch.zeros(3000, dtype=torch.uint8)}, "is damaged"),
    "no data": ({"data": None}, "uint8"),
    "bytes for data": ({"data": b"1234"}, "uint8"),
    "other numbers for data": ({"data": torch.zeros(3000)}, "uint8"),
    "data of two dimensions": ({"data": torch.zeros(10, 300, dtype=torch.uint8)}, "one dimension"),
    "one byte again and again": ({"data": torch.zeros(1, dtype=torch.uint8).expand(2**40)}, "contiguous"),
    "every second byte": ({"data": torch.zeros(6000, dtype=torch.uint8)[::2]}, "contiguous"),
    "sparse data": ({"data": torch.zeros(3000, dtype=torch.uint8).to_sparse()}, "contiguous"),
    "data that is nowhere": ({"data": torch.zeros(3000, dtype=torch.uint8, device="meta")}, "contiguous"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_forms_are_refused(name: str) -> None:
    change, reason = MALFORMED[name]
    with pytest.raises(PackingError, match=reason):
        unpack({"state": [{**form(), **change}]})


@pytest.mark.parametrize("key", ["dtype", "shape", "data"])
def test_a_missing_key_is_refused(key: str) -> None:
    with pytest.raises(PackingError, match="has the keys"):
        unpack([{name: value for name, value in form().items() if name != key}])


def test_garbage_and_truncation_are_refused_with_the_tensor_they_are_in() -> None:
    packed = form()
    data = packed["data"]
    garbage = torch.cat([data[:HEADER_BYTES], 255 - data[HEADER_BYTES:]])
    for damaged in (data[:-1].clone(), torch.cat([data, data]), garbage):
        with pytest.raises(PackingError, match=r"A packed tensor \(float32, 48 x 100\) is damaged: "):
            unpack([{**packed, "data": damaged}])


def test_more_than_the_limit_is_refused_before_anything_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = form()
    tree = {"a": twice, "b": twice, "c": {**twice}}
    size = 48 * 100 * 4
    assert_same(unpack(tree, limit_bytes=2 * size)["c"], numbers())
    monkeypatch.setattr(PackedTensor, "unpacked", lambda _: pytest.fail("it was unpacked"))
    with pytest.raises(PackingError, match=r"claim to hold 38,400 bytes; 38,399 at most"):
        unpack(tree, limit_bytes=2 * size - 1)


def test_a_claim_that_memory_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    bomb = {**form(), "shape": [1000, BLOCK], "data": torch.zeros(1000 * HEADER_BYTES, dtype=torch.uint8)}
    monkeypatch.setattr(torch, "empty", no_memory)
    with pytest.raises(PackingError, match=r"does not fit into memory: it claims 1,048,576,000 bytes"):
        unpack([bomb])


def test_a_gzip_bomb_is_found_out_before_it_goes_off() -> None:
    form = {MARK: 2, "dtype": "float32", "shape": [1024], "data": torch.tensor(list(gzip.compress(bytes(50_000_000))), dtype=torch.uint8)}
    with pytest.raises(PackingError, match="another number of bytes than it claims"):
        unpack({"bomb": form})


def test_a_gzip_stream_that_is_cut_or_followed_by_more_is_refused() -> None:
    tree = {"moment": numbers()}
    packed = pack(tree, "gzip")["moment"]
    assert_same(unpack({"moment": packed}), tree)
    for cut in range(1, 9):  # the check sum and the length: the numbers themselves are whole
        with pytest.raises(PackingError, match=r"does not end where its data ends"):
            unpack([{**packed, "data": packed["data"][:-cut].clone()}])
    with pytest.raises(PackingError, match=r"does not end where its data ends"):
        unpack([{**packed, "data": torch.cat([packed["data"], packed["data"]])}])
