"""Laws of generation: seeds, batches, caches and windows change the time it takes and never the music."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from musictrain.generation import generate, generate_scored
from musictrain.generation.generate import without
from musictrain.generation.window import trained_context, window_start
from musictrain.models import Decoder, Recurrent

VOCAB = 17


def small_network(kind: str = "decoder", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    if kind == "recurrent":
        return Recurrent(VOCAB, d_model=16, hidden=16, num_layers=1, dropout=0.5)
    network = Decoder(VOCAB, **{"d_model": 16, "num_layers": 2, "num_heads": 2, "dropout": 0.5, "max_context": 64, **options})
    with torch.no_grad():  # far from the start, where no layer adds anything; logits neither uniform nor sure
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return network


def prompts(batch: int, time: int = 3) -> Tensor:
    return torch.arange(batch * time).reshape(batch, time) % VOCAB


def rows(sequences: list[Tensor]) -> list[list[int]]:
    return [sequence.tolist() for sequence in sequences]


class Bigram(nn.Module):
    """Logits are a row of a table: a network without cache or parameters' names of its own."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]


def chain(size: int = 5) -> Bigram:
    """Token i is followed by i + 1, the last by the first, nearly for sure."""
    return Bigram(20.0 * torch.eye(size).roll(1, dims=1))


@pytest.mark.parametrize("kind", ["decoder", "recurrent"])
def test_greedy_is_the_chain_of_most_likely_tokens(kind: str) -> None:
    network = small_network(kind)
    by_hand = prompts(2)
    network.eval()
    for _ in range(10):
        by_hand = torch.cat([by_hand, network(by_hand)[:, -1:].argmax(-1)], dim=1)
    assert rows(generate(network, prompts(2), max_new_tokens=10, temperature=0)) == by_hand.tolist()


@pytest.mark.parametrize("kind", ["decoder", "recurrent"])
@pytest.mark.parametrize("context", [None, 16])
def test_the_cache_changes_nothing(kind: str, context: int | None) -> None:
    network = small_network(kind)
    made = [rows(generate(network, prompts(3), max_new_tokens=50, seed=5, use_cache=cached, context=context)) for cached in (True, False)]
    assert made[0] == made[1]
    assert len(made[0][0]) == 53


def test_same_seed_same_music_other_seed_other_music() -> None:
    network = small_network()
    again = [rows(generate(network, prompts(2), max_new_tokens=20, seed=seed)) for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_rows_of_the_same_prompt_differ() -> None:
    first, second = rows(generate(small_network(), prompts(1).expand(2, -1), max_new_tokens=20))
    assert first != second


def test_a_sample_does_not_depend_on_its_batch() -> None:
    network = small_network()
    together = rows(generate(network, prompts(4), max_new_tokens=20, seed=3))
    alone = [rows(generate(network, prompts(4)[i : i + 1], max_new_tokens=20, seed=3, first_row=i))[0] for i in range(4)]
    assert together == alone


def test_fewer_new_tokens_are_the_beginning_of_more() -> None:
    network = small_network()
    few, many = (rows(generate(network, prompts(2), max_new_tokens=n)) for n in (5, 30))
    assert few == [row[:8] for row in many]


def test_sequences_are_cut_after_their_own_end() -> None:
    sequences = generate_scored(chain(), torch.tensor([[0], [2]]), max_new_tokens=10, end=4)
    assert rows([s.tokens for s in sequences]) == [[0, 1, 2, 3, 4], [2, 3, 4]]
    assert [s.ended for s in sequences] == [True, True]
    assert [len(s.log_probs) for s in sequences] == [4, 2]


def test_an_end_of_several_tokens_must_come_whole() -> None:
    sequences = generate_scored(chain(), torch.tensor([[3], [0]]), max_new_tokens=6, end=(3, 4), temperature=0)
    assert rows([s.tokens for s in sequences]) == [[3, 4, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
    (unfinished,) = generate_scored(chain(), torch.tensor([[0]]), max_new_tokens=3, end=(3, 4))
    assert not unfinished.ended
    assert len(unfinished.tokens) == 4


def test_a_sequence_does_not_end_before_it_has_its_least_length() -> None:
    torch.manual_seed(0)
    network = Decoder(5, d_model=8, num_layers=1, num_heads=2, max_context=64)
    sequences = generate_scored(network, torch.zeros(20, 1, dtype=torch.int64), max_new_tokens=40, end=4, min_new_tokens=15)
    lengths = [len(sequence.tokens) - 1 for sequence in sequences]
    assert min(lengths) > 15
    assert all(4 not in sequence.tokens[: 1 + 15] for sequence in sequences)
    assert any(sequence.ended for sequence in sequences)


def test_a_row_that_can_only_end_may_end_at_once() -> None:
    logits = torch.tensor([[0.0, 1.0], [-torch.inf, 1.0]])
    assert without(logits, 1).tolist() == [[0.0, -torch.inf], [-torch.inf, 1.0]]


def test_generation_stops_when_every_row_has_ended() -> None:
    network = chain()
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    generate(network, torch.tensor([[2], [3]]), max_new_tokens=1000, end=4)
    assert len(calls) == 2


def test_log_probs_are_those_of_the_network_itself() -> None:
    network = small_network().eval()
    (sequence,) = generate_scored(network, prompts(1), max_new_tokens=12, temperature=2.0, top_k=5, min_p=0.1)
    expected = network(sequence.tokens[None, :-1]).log_softmax(-1)[0].gather(-1, sequence.tokens[1:, None]).flatten()
    torch.testing.assert_close(sequence.log_probs, expected[2:], rtol=0, atol=1e-5)


def test_nothing_new_gives_the_prompt_back() -> None:
    assert rows(generate(small_network(), prompts(2), max_new_tokens=0)) == prompts(2).tolist()


@pytest.mark.parametrize(("context", "align"), [(8, 1), (8, 4), (10, 4), (11, 2), (64, 4)])
def test_the_window_never_outgrows_the_context_and_keeps_at_least_nearly_half(context: int, align: int) -> None:
    starts = [window_start(n, context, align) for n in range(1, 300)]
    seen = [n - start for n, start in enumerate(starts, 1)]
    assert all(start % align == 0 for start in starts)
    assert max(seen) <= context
    assert min(seen[context:]) > context - context // 2 - align
    assert len(set(starts)) <= 1 + 300 // (context // 2 // align * align)


def test_pieces_longer_than_the_context_rebuild_the_cache_seldom() -> None:
    network = small_network(max_context=16)
    lengths: list[int] = []
    network.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    (sequence,) = generate(network, prompts(1), max_new_tokens=100, align=4)
    assert len(sequence) == 103
    rebuilt = [length for length in lengths[1:] if length > 1]
    assert len(rebuilt) == -(-(102 - 16) // 8)
    assert max(rebuilt) <= 12


def test_a_prompt_longer_than_the_context_is_seen_from_its_window_on() -> None:
    network = small_network(max_context=16).eval()
    prompt = prompts(1, 30)
    (sequence,) = generate(network, prompt, max_new_tokens=1, temperature=0)
    start = window_start(30, 16)
    assert sequence[-1] == network(prompt[:, start:])[0, -1].argmax()


def test_the_network_comes_back_in_the_mode_it_was_in() -> None:
    network = small_network()
    network.train()
    network.blocks[0].eval()
    before = [module.training for module in network.modules()]
    generate(network, prompts(1), max_new_tokens=2)
    assert [module.training for module in network.modules()] == before
    with pytest.raises(ValueError, match="nan"):
        generate(Bigram(torch.full((5, 5), torch.nan)), torch.zeros(1, 1, dtype=torch.int64), max_new_tokens=2)


def test_generated_tokens_can_be_trained_on() -> None:
    network = small_network()
    (sequence,) = generate(network, prompts(1), max_new_tokens=5)
    network(sequence[None]).sum().backward()
    assert network.embedding.weight.grad is not None


def test_bf16_autocast_generates() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        (sequence,) = generate(small_network(), prompts(1), max_new_tokens=30, context=16)
    assert len(sequence) == 33


class Alternating:
    """A grammar of two states: even tokens and odd tokens take turns."""

    def start(self, batch: int) -> np.ndarray:
        return np.zeros(batch, np.int64)

    def allowed(self, state: np.ndarray) -> np.ndarray:
        return np.arange(VOCAB) % 2 == state[:, None]

    def advance(self, state: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        return 1 - tokens % 2


@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
def test_a_grammar_is_obeyed_from_the_prompt_on(temperature: float) -> None:
    prompt = torch.tensor([[4], [7], [12]])
    made = torch.stack(generate(small_network(), prompt, max_new_tokens=20, temperature=temperature, grammar=Alternating(), top_k=2))
    assert ((made[:, 1:] + made[:, :-1]) % 2 == 1).all()


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), {}, "must be token ids \\(batch, time\\)"),
        (torch.zeros(2, 0, dtype=torch.int64), {}, "at least one token a row, such as tokenizer.begin"),
        (torch.zeros(1, 2), {}, "torch.float32"),
        (torch.tensor([[VOCAB]]), {}, "tokens 17 to 17, but the network knows 0 to 16"),
        (torch.tensor([[-1]]), {}, "tokens -1 to -1"),
        (torch.tensor([[0]]), {"max_new_tokens": -1}, "can be negative"),
        (torch.tensor([[0]]), {"seed": -1}, "can be negative"),
        (torch.tensor([[0]]), {"context": 65}, "context is 65 tokens, but Decoder looks back on at most 64"),
        (torch.tensor([[0]]), {"context": 7, "align": 4}, "at least two steps of 4"),
        (torch.tensor([[0]]), {"top_p": 0.0}, "top_p is 0.0"),
    ],
)
def test_requests_that_cannot_work_are_refused(prompt: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(small_network(), prompt, **{"max_new_tokens": 1, **options})


def test_windows_start_where_the_network_wants_them() -> None:
    network = small_network(max_context=16)
    network.window_align = 8
    fed: list[list[int]] = []
    network.register_forward_pre_hook(lambda _, args: fed.append(args[0][0].tolist()))
    (sequence,) = generate(network, prompts(1), max_new_tokens=40, align=4, use_cache=False)
    starts = [n - len(window) for n, window in enumerate(fed, start=3)]
    assert set(starts) == {0, 8, 16, 24, 32}
    assert len(sequence) == 43


def test_positions_that_were_never_trained_are_never_used() -> None:
    decoder, recurrent = small_network(max_context=64), small_network("recurrent")
    assert [trained_context(decoder, window) for window in (None, 32, 64, 200)] == [64, 32, 64, 64]
    assert trained_context(recurrent, 32) is None
