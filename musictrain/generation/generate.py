"""generate: from a batch of prompts to finished sequences, one token at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from musictrain.data.tokenizers.protocol import Grammar
from musictrain.generation.filters import SamplingRule, chances, only_allowed
from musictrain.generation.window import Reader, checked_context, evaluating


@dataclass(frozen=True, eq=False)
class Generated:
    """One generated sequence.

    Args:
        tokens: the prompt and what came after it, up to and with the end, (time,) int64.
        log_probs: of each token after the prompt the natural logarithm of its probability under the network as it is, before
            temperature, filters and grammar, (time - prompt_length,) float32.
        prompt_length: number of tokens of the prompt.
        ended: whether it came to an end by itself, and not by ``max_new_tokens``.
    """

    tokens: Tensor
    log_probs: Tensor
    prompt_length: int
    ended: bool


def generate(network: nn.Module, prompt: Tensor, *, max_new_tokens: int, **options: Any) -> list[Tensor]:
    """The sequences of ``generate_scored``, tokens alone: for every row of the prompt one (time,) int64 tensor, prompt included."""
    return [sequence.tokens for sequence in generate_scored(network, prompt, max_new_tokens=max_new_tokens, **options)]


def generate_scored(
    network: nn.Module,
    prompt: Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int = 0,
    grammar: Grammar | None = None,
    end: int | Sequence[int] | None = None,
    min_new_tokens: int = 0,
    pad_id: int = 0,
    use_cache: bool = True,
    context: int | None = None,
    align: int = 1,
    first_row: int = 0,
) -> list[Generated]:
    """Continues every row of ``prompt`` token by token, in the network's eval mode and without gradients.

    Row i of a seed draws from its own stream of chance: neither the batch size nor the other rows change it. (They may change how the
    network's sums are rounded; a draw that falls within such a rounding, about one in millions, can turn out differently.)

    Args:
        network: tokens (batch, time) -> logits (batch, time, vocab); with ``start_cache`` each new token costs one step, without it the
            window is read again for every token.
        prompt: (batch, time) int64, at least one token. Rows of different lengths: one call per length, with ``first_row``.
        max_new_tokens: where a sequence that does not end is cut.
        temperature, top_k, top_p, min_p: see ``SamplingRule``; they act on what the grammar leaves.
        seed: not negative.
        grammar: only tokens it allows are drawn; the prompt is fed through it first.
        end: the token, or the tokens in a row, after which a sequence is finished, such as ``tokenizer.end``.
        min_new_tokens: before so many, the first token of ``end`` is not drawn: a prompt that sounds finished is continued all the same.
        pad_id: what a finished row is fed while the others go on.
        use_cache: False reads the window again for every token; slower, the same result.
        context: tokens the network looks back on, at most its ``max_context``, which is the default. Beyond it see ``window_start``.
        align: windows start at multiples of it, such as ``tokenizer.tokens_per_step``, and of the network's own ``window_align``.
        first_row: number of the first row in the seed's streams, for samples made in several batches.

    Raises:
        ValueError: for an option out of its range, an empty prompt, or tokens that are not in the vocabulary.
    """
    rule = SamplingRule(temperature, top_k, top_p, min_p)
    check_request(network, prompt, max_new_tokens, seed)
    align = math.lcm(align, getattr(network, "window_align", 1))
    context = checked_context(network, context, align)
    batch, length = prompt.shape
    chance = torch.from_numpy(chances(seed, range(first_row, first_row + batch), max_new_tokens))
    sheet = _Sheet(prompt, max_new_tokens, end, pad_id)
    reader = Reader(network, batch_size=batch, longest=length + max_new_tokens, context=context, align=align, use_cache=use_cache)
    with evaluating(network), torch.inference_mode():
        state = None if grammar is None else after_prompt(grammar, prompt.cpu().numpy())
        for step in range(max_new_tokens):
            logits = reader.next_logits(sheet.written)
            log_probs = logits.log_softmax(-1)
            check_numbers(log_probs, sheet.length)
            if grammar is not None:
                logits = only_allowed(logits, grammar.allowed(state))
            if step < min_new_tokens and len(sheet.end):
                logits = without(logits, int(sheet.end[0]))
            chosen = rule.choose(logits, chance[:, step])
            if sheet.write(chosen, log_probs):
                break
            if grammar is not None:
                state = grammar.advance(state, chosen.numpy())
    return sheet.sequences()


def without(logits: Tensor, token: int) -> Tensor:
    """The logits (batch, vocab) with one token ruled out, except in rows that would have none left."""
    ruled_out = logits.index_fill(-1, torch.tensor([token]), -torch.inf)
    return torch.where(ruled_out.isneginf().all(-1, keepdim=True), logits, ruled_out)


def after_prompt(grammar: Grammar, prompt: np.ndarray) -> Any:
    """The grammar's state after the prompt (batch, time)."""
    state = grammar.start(len(prompt))
    for tokens in prompt.T:
        state = grammar.advance(state, tokens)
    return state


def check_request(network: nn.Module, prompt: Tensor, max_new_tokens: int, seed: int) -> None:
    """Refuses what no network can continue.

    Raises:
        ValueError: if the prompt is not (batch, time), is empty, or holds tokens beyond the network's ``vocab_size``.
    """
    if prompt.dim() != 2 or prompt.numel() == 0 or prompt.is_floating_point():
        raise ValueError(
            f"The prompt is {prompt.dtype} of shape {tuple(prompt.shape)}, but must be token ids (batch, time) with at least one "
            "token a row, such as tokenizer.begin."
        )
    if max_new_tokens < 0 or seed < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens} and seed {seed}, but neither can be negative.")
    vocab_size: int | None = getattr(network, "vocab_size", None)
    if prompt.min() < 0 or (vocab_size is not None and prompt.max() >= vocab_size):
        raise ValueError(
            f"The prompt holds tokens {int(prompt.min())} to {int(prompt.max())}, but the network knows 0 to {(vocab_size or 0) - 1}: "
            "encode it with the tokenizer this network was trained with."
        )


def check_numbers(log_probs: Tensor, num_tokens: int) -> None:
    """Refuses log-probabilities (batch, vocab) that are not numbers, where one bad logit makes its whole row so.

    Raises:
        ValueError: if there are any.
    """
    if log_probs[:, 0].isnan().any():
        raise ValueError(
            f"The network's logits are nan or infinite after {num_tokens} tokens: its weights are damaged or its training diverged. "
            "Sample from an earlier checkpoint."
        )


class _Sheet:
    """The sequences while they are written: tokens, their log-probabilities, and which rows are finished."""

    def __init__(self, prompt: Tensor, max_new_tokens: int, end: int | Sequence[int] | None, pad_id: int) -> None:
        batch, self.prompt_length = prompt.shape
        self.length = self.prompt_length
        self.pad_id = pad_id
        self.end = torch.tensor([end] if isinstance(end, int) else list(end or ()), dtype=torch.int64)
        self.tokens = torch.full((batch, self.length + max_new_tokens), pad_id, dtype=torch.int64)
        self.tokens[:, : self.length] = prompt
        self.log_probs = torch.zeros(batch, max_new_tokens)
        self.stops = torch.full((batch,), self.length + max_new_tokens)
        """Length of every row, the whole room while it has not ended."""
        self.ended = torch.zeros(batch, dtype=torch.bool)

    @property
    def written(self) -> Tensor:
        return self.tokens[:, : self.length]

    def write(self, chosen: Tensor, log_probs: Tensor) -> bool:
        """Adds one token to every row that is not finished, pad to the others; whether all are finished now."""
        self.log_probs[:, self.length - self.prompt_length] = log_probs.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
        self.tokens[:, self.length] = torch.where(self.ended, self.pad_id, chosen)
        self.length += 1
        if not len(self.end) or self.length - self.prompt_length < len(self.end):
            return False
        ends = ~self.ended & (self.written[:, -len(self.end) :] == self.end).all(-1)
        self.stops[ends] = self.length
        self.ended |= ends
        return bool(self.ended.all())

    def sequences(self) -> list[Generated]:
        return [
            Generated(
                tokens=self.tokens[row, :stop].clone(),
                log_probs=self.log_probs[row, : stop - self.prompt_length].clone(),
                prompt_length=self.prompt_length,
                ended=bool(self.ended[row]),
            )
            for row, stop in enumerate(self.stops.tolist())
        ]
