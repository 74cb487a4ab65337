"""Laws of VoiceFrames: it never sees the future, its cache changes nothing, and it knows what VoiceGrid's tokens may be."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from musictrain.data.tokenizers import VoiceGrid
from musictrain.generation import generate, sample_pieces
from musictrain.models import VoiceFrames
from musictrain.models.frame_classes import IMPOSSIBLE
from musictrain.optim import parameter_groups

GRID = VoiceGrid(48, 72)
SIZES = {"embedding": 16, "hidden": 16, "head_hidden": 16, "pointer_beats": 8}


def small_network(**options: Any) -> VoiceFrames:
    """With weights far from those at the start, which are too tame to show anything."""
    torch.manual_seed(0)
    network = VoiceFrames(GRID.vocab_size, GRID.lowest, GRID.highest, **{**SIZES, **options}).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return network


def a_piece(frames: int = 20, seed: int = 0) -> Tensor:
    """BOS, a random piece whose notes are held for two frames on average, EOS: (4 * (frames + 2),)."""
    rng = np.random.default_rng(seed)
    music = np.sort(rng.integers(GRID.lowest + 2, GRID.highest - 1, (frames, 4)), axis=1)[:, ::-1].copy()
    music[rng.random((frames, 4)) < 0.05] = -1
    for step in range(1, frames):
        held = rng.random(4) < 0.5
        music[step, held] = music[step - 1, held]
    return torch.tensor([*GRID.begin, *GRID.encode_frames(music), *GRID.end])


def some_pieces(batch: int = 3, frames: int = 20) -> Tensor:
    return torch.stack([a_piece(frames, seed) for seed in range(batch)])


def another_token(tokens: Tensor, place: int) -> Tensor:
    """The tokens with another note of the same voice at a place."""
    first = 3 + place % 4 * GRID.tokens_per_voice
    changed = tokens.clone()
    changed[:, place] = first + (tokens[:, place] - first + 1) % GRID.tokens_per_voice
    return changed


@pytest.mark.parametrize("place", [4, 9, 14, 23, 40, 63, 82])
def test_logits_before_a_token_do_not_depend_on_it(place: int) -> None:
    network, tokens = small_network(), some_pieces()
    before, after = network(tokens), network(another_token(tokens, place))
    torch.testing.assert_close(before[:, :place], after[:, :place], rtol=0, atol=1e-5)
    assert not torch.allclose(before[:, place : place + 5], after[:, place : place + 5], atol=1e-3)


def test_the_future_as_a_whole_does_not_matter() -> None:
    network, tokens = small_network(), some_pieces()
    whole = network(tokens)
    for stop in (1, 2, 5, 8, 11, 16, 43):
        torch.testing.assert_close(network(tokens[:, :stop]), whole[:, :stop], rtol=0, atol=1e-5)


@pytest.mark.parametrize("parts", [[88], [1] * 88, [3] * 29 + [1], [5, 8, 0, 1, 17, 57], [4, 84]], ids=lambda parts: f"{len(parts)}-parts")
@pytest.mark.parametrize("beats", [2, 50], ids=["short-memory", "long-memory"])
def test_feeding_through_the_cache_gives_the_logits_of_the_whole(parts: list[int], beats: int) -> None:
    network, tokens = small_network(pointer_beats=beats), some_pieces()
    cache = network.start_cache(batch_size=3, length=100)
    fed = torch.cat([network(part, cache=cache) for part in tokens.split(parts, dim=1)], dim=1)
    torch.testing.assert_close(fed, network(tokens), rtol=0, atol=1e-4)
    assert cache.length == 88


def test_a_cache_remembers_a_fixed_amount() -> None:
    network, cache = small_network(), small_network().start_cache(3)
    sizes = set()
    for part in some_pieces(frames=60).split(8, dim=1):
        network(part, cache=cache)
        sizes.add((cache.past.shape, cache.runs.shape, cache.pending.shape))
    assert len(sizes) == 1


def test_two_caches_do_not_know_each_other() -> None:
    network, (first, second) = small_network(), some_pieces(2).split(1)
    caches = [network.start_cache(1), network.start_cache(1)]
    for place in range(40):
        logits = [network(tokens[:, place : place + 1], cache=cache) for tokens, cache in zip((first, second), caches, strict=True)]
    torch.testing.assert_close(logits[0][:, 0], network(first)[:, 39], rtol=0, atol=1e-4)
    torch.testing.assert_close(logits[1][:, 0], network(second)[:, 39], rtol=0, atol=1e-4)


def test_what_the_grammar_forbids_is_impossible_and_nothing_else_is() -> None:
    tokens, grammar = some_pieces(1), GRID.grammar()
    logits = small_network()(tokens)[0].detach()
    state = grammar.start(1)
    for place, token in enumerate(tokens[0].tolist()[:-1]):
        state = grammar.advance(state, np.array([token]))
        allowed = torch.from_numpy(grammar.allowed(state)[0])
        assert logits[place].isfinite().all()
        assert (logits[place, ~allowed] <= IMPOSSIBLE).all(), place
        assert (logits[place, allowed] > -1000).all(), place


def test_begin_and_end_cost_nothing_once_they_have_begun() -> None:
    tokens = some_pieces(1)
    nll = cross_entropy(small_network()(tokens[:, :-1])[0], tokens[0, 1:], reduction="none")
    assert nll[[0, 1, 2, -3, -2, -1]].abs().max() == 0
    assert nll[3:-3].min() > 0


def test_padding_after_a_piece_changes_nothing_before_it() -> None:
    network, piece = small_network(), some_pieces(1)
    padded = torch.cat([piece, torch.full((1, 40), GRID.pad_id)], 1)
    logits = network(padded)
    torch.testing.assert_close(logits[:, : piece.shape[1]], network(piece), rtol=0, atol=1e-5)
    assert logits.isfinite().all()


def test_windows_start_where_the_bar_is_counted_from() -> None:
    network = small_network()
    assert network.window_align == 64
    assert small_network(beats_per_bar=3).window_align == 48
    tokens, logits = some_pieces(1)[:, 4:20], {}
    for start in (0, 32, 64):
        cache = network.start_cache(1)
        cache.length = start  # as after so many tokens, but for the memory
        logits[start] = network(tokens, cache=cache)
    torch.testing.assert_close(logits[64], logits[0], rtol=0, atol=1e-5)
    assert not torch.allclose(logits[32], logits[0], atol=0.1)


@pytest.mark.parametrize("semitones", [-2, 2])
def test_a_transposed_piece_is_possible_note_by_note(semitones: int) -> None:
    moved = torch.from_numpy(GRID.transposition(semitones))[some_pieces()]
    assert moved.min() >= 0
    nll = cross_entropy(small_network()(moved[:, :-1]).flatten(0, 1), moved[:, 1:].flatten(), reduction="none")
    assert nll.max() < 1000


def test_a_phrase_is_cheaper_the_second_time() -> None:
    torch.manual_seed(0)
    network = VoiceFrames(GRID.vocab_size, GRID.lowest, GRID.highest, **SIZES).eval()
    torch.nn.init.constant_(network.head.voice_bias[:, -1:], 8.0)  # believe the pointer
    tokens = torch.cat([a_piece(16)[:-4], a_piece(16)[4:]])[None]
    nll = cross_entropy(network(tokens[:, :-1])[0], tokens[0, 1:], reduction="none")
    first, second = nll[3 : 3 + 64], nll[3 + 64 : 3 + 128]
    assert second.mean() < 0.5 * first.mean()
    assert second[32:].mean() < 0.2 * first[32:].mean()


def test_a_tiny_piece_is_learned_within_some_steps() -> None:
    torch.manual_seed(0)
    network = VoiceFrames(GRID.vocab_size, GRID.lowest, GRID.highest, **SIZES, dropout=0.1)
    optimizer = torch.optim.AdamW(parameter_groups(network, 0.05), lr=0.01)
    tokens, losses = some_pieces(2, frames=14), []
    for _ in range(25):
        loss = cross_entropy(network(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_every_parameter_has_a_gradient() -> None:
    network, tokens = small_network().train(), some_pieces()
    cross_entropy(network(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in network.parameters())


def test_matrices_decay_and_tables_norms_biases_and_the_pointer_do_not() -> None:
    network = small_network()
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    decay, rest = ([names[id(p)] for p in group["params"]] for group in parameter_groups(network, 0.1))
    layers = [f"reader.layers.{layer}.{part}" for layer in range(2) for part in ("weight", "inputs.weight")]
    assert sorted(decay) == sorted([*layers, "head.context.weight", "head.proposal.weight", "head.hidden.3.weight", "head.output.weight"])
    assert {"pointer.run_bias", "pointer.lag_bias", "pointer.agreement_bias", "reader.inputs.table.weight", "reader.start"} < set(rest)


def test_state_round_trip_gives_the_same_logits() -> None:
    network, tokens = small_network(), some_pieces()
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other = VoiceFrames(GRID.vocab_size, GRID.lowest, GRID.highest, **SIZES).eval()
    assert not torch.equal(network(tokens), other(tokens))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(network(tokens), other(tokens))


def test_the_same_seed_gives_the_same_weights_and_the_same_dropout() -> None:
    made = []
    for _ in range(2):
        torch.manual_seed(7)
        network = VoiceFrames(GRID.vocab_size, GRID.lowest, GRID.highest, **SIZES)
        made.append(network(some_pieces()))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(network(some_pieces()), made[0])
    network.eval()
    assert torch.equal(network(some_pieces()), network(some_pieces()))


def test_bf16_autocast_is_near_full_precision_with_and_without_cache() -> None:
    network, tokens = small_network(), some_pieces()
    exact = network(tokens).log_softmax(-1)
    with torch.autocast("cpu", torch.bfloat16):
        whole, cache = network(tokens), network.start_cache(3)
        fed = torch.cat([network(part, cache=cache) for part in tokens.split(11, dim=1)], dim=1)
    possible = exact > -1000
    for logits in (whole, fed):
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits.log_softmax(-1)[possible], exact[possible], rtol=0.05, atol=0.3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_another_precision_work(dtype: torch.dtype) -> None:
    network = small_network().to(dtype)
    cache = network.start_cache(3)
    assert network(some_pieces(), cache=cache).isfinite().all()
    assert cache.reader.layers.dtype == dtype


def test_what_it_makes_decodes_with_and_without_the_grammar() -> None:
    for use_grammar in (True, False):
        for piece in sample_pieces(small_network(), GRID, num=3, max_new_tokens=40, use_grammar=use_grammar, seed=3):
            music = piece.tokens[: 40 - 40 % 4]
            frames = GRID.decode_frames(music)
            assert 0 < len(frames) == len(music) // 4
            assert np.array_equal(GRID.encode_frames(frames), music)


def test_generation_with_and_without_the_cache_is_the_same_music() -> None:
    network, prompt = small_network(), some_pieces()[:, :22]
    made = [generate(network, prompt, max_new_tokens=30, seed=5, use_cache=cached, grammar=GRID.grammar()) for cached in (True, False)]
    assert torch.equal(torch.stack(made[0]), torch.stack(made[1]))


def test_a_vocabulary_that_is_not_the_tokenizers_is_refused() -> None:
    assert VoiceFrames(VoiceGrid().vocab_size, **SIZES).vocab_size == VoiceGrid().vocab_size
    with pytest.raises(ValueError, match="got vocab_size=107, but VoiceGrid with pitches 21 to 108 has 359 tokens"):
        VoiceFrames(GRID.vocab_size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "hidden is 0, but must be at least 1"),
        ({"pointer_beats": 0}, "pointer_beats is 0, but must be at least 1"),
        ({"steps_per_beat": 3, "beats_per_bar": 3}, "3 beats with 3 steps has 9 frames, but must have an even number"),
        ({"dropout": 1.0}, r"dropout is 1\.0, but must be at least 0 and below 1"),
    ],
)
def test_sizes_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_network(**options)


def test_while_training_the_layers_forget_at_every_segment_and_otherwise_not() -> None:
    network = small_network(dropout=0.0, input_dropout=0.0, feature_dropout=0.0, segment_beats=2)
    pairs = torch.randint(3, (2, 10, len(network.reader.inputs.offsets)), generator=torch.Generator().manual_seed(0))
    changed = pairs.clone()
    changed[:, 1] = 0

    def moved(training: bool) -> list[bool]:
        """Which outputs, 0 being that before the first pair, a change of the second pair moves."""
        before, after = (network.train(training).reader(seen, network.reader.first_state(2))[0] for seen in (pairs, changed))
        return (before != after).any(-1).all(0).tolist()

    assert moved(training=True) == [False, False] + [True] * 3 + [False] * 6
    assert moved(training=False) == [False, False] + [True] * 9


def test_caches_that_do_not_fit_are_refused() -> None:
    network = small_network()
    with pytest.raises(ValueError, match=r"got a cache while training.*call eval\(\) first"):
        network.train()(some_pieces(), cache=network.start_cache(3))
    with pytest.raises(ValueError, match="Got 3 sequences, but this cache was started for 2"):
        network(some_pieces(), cache=network.start_cache(2))
