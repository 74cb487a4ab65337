"""What a network looks back on while a sequence grows: all of it, or, beyond the context, a window that jumps ahead now and then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def window_start(num_tokens: int, context: int | None, align: int = 1) -> int:
    """The first token a network sees when ``num_tokens`` are there and it can look back on ``context`` of them (None: on all).

    When the context is full, the window drops its older half and grows again, so that a cache is rebuilt once every ``context / 2``
    tokens and not at each. The start is a multiple of ``align``; it depends on nothing but the arguments.

    >>> [window_start(n, context=8) for n in (8, 9, 12, 13)]
    [0, 4, 4, 8]
    """
    if context is None or num_tokens <= context:
        return 0
    hop = context // 2 // align * align
    return -(-(num_tokens - context) // hop) * hop


def trained_context(network: nn.Module, window: int | None) -> int | None:
    """What a network should look back on while it plays: the window it was trained on, where it counts positions; else all it can.

    A decoder with room for 2,048 positions that was trained on windows of 512 has never seen the later ones.

    Args:
        network: with ``max_context``, None for a network that does not count positions.
        window: tokens of a training row, None if nobody knows.
    """
    limit: int | None = getattr(network, "max_context", None)
    return limit if limit is None or window is None else min(limit, window)


def checked_context(network: nn.Module, context: int | None, align: int) -> int | None:
    """How many tokens the network may look back on: ``context``, or its own ``max_context``, or None for any number.

    Raises:
        ValueError: if that is more than the network can, or too little to jump ahead by ``align``.
    """
    limit: int | None = getattr(network, "max_context", None)
    context = limit if context is None else context
    if context is None:
        return None
    if limit is not None and context > limit:
        raise ValueError(f"context is {context} tokens, but {type(network).__name__} looks back on at most {limit}: give at most that.")
    if context < 2 * align:
        raise ValueError(f"context is {context} tokens, but must be at least two steps of {align} to move on in.")
    return context


class Reader:
    """Feeds a growing batch of sequences to a network and gives the logits of the next token.

    With ``use_cache`` and a network that offers ``start_cache`` only the new tokens are fed; otherwise the whole window is, each time.
    Both see the same window, so that the cache changes the time and nothing else.

    Args:
        network: tokens (batch, time) -> logits (batch, time, vocab).
        batch_size: number of sequences.
        longest: number of tokens the sequences may grow to.
        context: as in ``window_start``.
        align: as in ``window_start``.
        use_cache: see above.
    """

    def __init__(
        self, network: nn.Module, *, batch_size: int, longest: int, context: int | None = None, align: int = 1, use_cache: bool = True
    ) -> None:
        self.network = network
        self.batch_size = batch_size
        self.context = context
        self.align = align
        self.device = device_of(network)
        self.use_cache = use_cache and hasattr(network, "start_cache")
        self.capacity = None if context is None else min(context, longest)
        self._start = self._seen = 0
        self._cache: object = None

    def next_logits(self, tokens: Tensor) -> Tensor:
        """Logits (batch, vocab), float32 on the CPU, of the token after ``tokens`` (batch, time), which only ever grows."""
        start = window_start(tokens.shape[1], self.context, self.align)
        if not self.use_cache:
            return self._last(self.network(tokens[:, start:].to(self.device)))
        if self._cache is None or start != self._start:
            self._cache = self._new_cache()
            self._start = self._seen = start
        fresh = tokens[:, self._seen :].to(self.device)
        self._seen = tokens.shape[1]
        return self._last(self.network(fresh, cache=self._cache))

    def _new_cache(self) -> object:
        start_cache = self.network.start_cache
        return start_cache(self.batch_size) if self.capacity is None else start_cache(self.batch_size, self.capacity)  # type: ignore

    @staticmethod
    def _last(logits: Tensor) -> Tensor:
        return logits[:, -1].float().cpu()


def device_of(network: nn.Module) -> torch.device:
    """Where the network's first parameter lies; the CPU for a network without any."""
    parameter = next(network.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network without dropout for a while; afterwards every module is in the mode it was in."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
