"""The contract every network and every batch keeps, and what is said to one that does not.

A network maps tokens (batch, time) int64 to logits (batch, time, vocab), and ``logits[:, i]`` predicts token i + 1. A batch is an int64
tensor (batch, time + 1), or a mapping that holds one as ``tokens``; ``hidden``, bool (batch, time), may name tokens
of it that are not to be read while training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def tokens_of(batch: Any) -> Tensor:
    """The tokens (batch, time + 1), int64, of a batch: the tensor itself, a mapping's ``tokens``, or the only member of a list.

    Raises:
        ValueError: if there are none, or not in this shape.
    """
    tokens = batch.get("tokens") if isinstance(batch, Mapping) else batch
    if isinstance(tokens, list | tuple) and len(tokens) == 1:
        tokens = tokens[0]
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.shape[1] < 2 or tokens.is_floating_point():
        raise ValueError(
            f"MusicModule got {_describe(batch)} as a batch, expected an int64 tensor (batch, time + 1) of at least two tokens a row, "
            "or a mapping that holds one as 'tokens'."
        )
    return tokens.long()


def _describe(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f"a {batch.dtype} tensor of shape {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        tokens = f" ('tokens' is {_describe(batch['tokens'])})" if "tokens" in batch else ""
        return f"a {type(batch).__name__} with keys {sorted(batch)}{tokens}"
    return f"a {type(batch).__name__}"


def network_vocab_size(network: nn.Module) -> int:
    """Width of the network's logits: its ``vocab_size``, else found by feeding it one row of eight zeros.

    Raises:
        ValueError: if what comes back is not (1, 8, vocab).
    """
    width = getattr(network, "vocab_size", None)
    if isinstance(width, int):
        return width
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    modes = {module: module.training for module in network.modules()}
    with torch.no_grad():
        logits = network.eval()(torch.zeros(1, 8, dtype=torch.int64, device=device))
    for module, training in modes.items():
        module.training = training
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != (1, 8):
        raise ValueError(
            f"{type(network).__name__} maps tokens (1, 8) to {_describe(logits)}, expected logits (1, 8, vocab): one row of the vocabulary "
            "for every token."
        )
    return logits.shape[-1]


def check_vocabulary(network: nn.Module, width: int, vocab_size: int | None) -> None:
    """Refuse a network whose logits are not as wide as the data's vocabulary; None, an unknown vocabulary, passes.

    Raises:
        ValueError: naming both widths.
    """
    if vocab_size is not None and width != vocab_size:
        raise ValueError(
            f"{type(network).__name__} predicts over {width} tokens, but the data's tokenizer has a vocabulary of {vocab_size}. "
            f"Build the network with vocab_size={vocab_size}, or train on the tokenizer it was made for."
        )


def check_context(network: nn.Module, *windows: int | None) -> None:
    """Refuse windows longer than the network's ``max_context``, where they are known.

    Raises:
        ValueError: naming both lengths.
    """
    longest = getattr(network, "max_context", None)
    window = max((window for window in windows if window is not None), default=0)
    if longest is not None and window > longest:
        raise ValueError(
            f"{type(network).__name__} reads at most {longest} tokens, but the data's windows have {window}. "
            f"Build the network with max_context={window}, or set the data's window to {longest} or less."
        )


def check_alignment(network: nn.Module, packing: bool | None, align: int | None) -> None:
    """Refuse windows that start where a network with a ``window_align`` cannot count from; unknown packing passes.

    Raises:
        ValueError: naming what the network needs and what the data does.
    """
    needed = getattr(network, "window_align", 1)
    if needed == 1 or packing is None or (not packing and align is not None and align % needed == 0):
        return
    raise ValueError(
        f"{type(network).__name__} counts from the start of its window, which must be a multiple of {needed} tokens into one piece, but "
        f"the data has packing={packing}, align={align}. Set the data's packing to false and its align to {needed}."
    )


def check_token_range(tokens: Tensor, width: int) -> None:
    """Refuse tokens outside the network's vocabulary; reads them from the device.

    Raises:
        ValueError: naming the token and the width.
    """
    lowest, highest = (int(value) for value in torch.aminmax(tokens))
    if lowest < 0 or highest >= width:
        raise ValueError(
            f"The first batch holds token {lowest if lowest < 0 else highest}, but the network predicts over {width} tokens, "
            f"0 to {width - 1}. Build the network with the tokenizer's vocab_size."
        )


def agreed_pad_id(pad_id: int | None, datamodule: Any) -> int | None:
    """The padding token: the one given, else the one of the data module's tokenizer, else None.

    Raises:
        ValueError: if both are known and differ.
    """
    theirs = getattr(getattr(datamodule, "tokenizer", None), "pad_id", None)
    if pad_id is not None and theirs is not None and pad_id != theirs:
        raise ValueError(
            f"MusicModule got pad_id={pad_id}, but the data's tokenizer pads with {theirs}: padding would be counted. Leave pad_id out."
        )
    return theirs if pad_id is None else pad_id


def special_tokens(tokenizer: Any, pad_id: int | None) -> tuple[tuple[int, ...], int]:
    """The tokens that are no music (padding, begin, end), and how many tokens make a step; of no tokenizer, the padding and 1."""
    special = {*getattr(tokenizer, "begin", ()), *getattr(tokenizer, "end", ()), *(() if pad_id is None else (pad_id,))}
    return tuple(sorted(special)), getattr(tokenizer, "tokens_per_step", 1)


def blank_of(pad_id: int | None) -> int:
    """The token that is read where a batch hides one.

    Raises:
        ValueError: if nobody has named one.
    """
    if pad_id is None:
        raise ValueError("The batch hides tokens, but neither pad_id nor the data module's tokenizer names the padding to read instead.")
    return pad_id
