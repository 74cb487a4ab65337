"""Token validity: real pieces are valid for every tokenizer, slips are found where they stand, and one slip costs one token."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from musictrain.data import MidiTokTokenizer, VoiceGrid, load_corpus
from musictrain.data.tokenizers import Tokenizer
from musictrain.data.tokenizers.midi_tok_params import KINDS
from musictrain.data.tokenizers.saved import CLASSES
from musictrain.metrics.validity import (
    ValidityCounts,
    how_judged,
    illegal_probability,
    token_faults,
    token_validity,
    validity_counts,
)
from musictrain.metrics.validity_metrics import TokenValidity
from musictrain.notes import Notes
from tests.metrics.two_ranks import values_of_two_ranks

GRID = VoiceGrid()
TOKENIZERS: list[Any] = [
    GRID,
    VoiceGrid(steps_per_beat=2),
    *(MidiTokTokenizer(kind) for kind in KINDS),
    MidiTokTokenizer("REMI", {"use_rests": True}),
    MidiTokTokenizer("REMI", {"use_programs": False, "use_velocities": False}),
    MidiTokTokenizer("TSD", {"use_rests": True, "use_tempos": False}),
]
REMI = TOKENIZERS[2]
NAMES = [f"{number} {tokenizer.name}" for number, tokenizer in enumerate(TOKENIZERS)]
every_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=NAMES)


def chorale(num_beats: int = 6) -> Notes:
    onset = np.repeat(np.arange(num_beats), 4)
    return Notes(onset, np.ones(len(onset)), np.tile([72, 67, 64, 48], num_beats) + onset, track=np.tile(np.arange(4), num_beats))


def whole(tokenizer: Tokenizer, notes: Notes | None = None) -> np.ndarray:
    return np.array([*tokenizer.begin, *tokenizer.encode(notes or chorale()), *tokenizer.end])


def ids(tokenizer: Tokenizer, *names: str) -> list[int]:
    table = {tokenizer.token_name(token): token for token in range(tokenizer.vocab_size)}
    return [table[name] for name in names]


class WithoutGrammar:
    """Another project's tokenizer: encode and decode, and no rules."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        for name in ("name", "vocab_size", "pad_id", "begin", "end", "encode", "decode", "token_name"):
            setattr(self, name, getattr(tokenizer, name))


def test_every_tokenizer_that_can_be_saved_is_judged_by_its_grammar():
    assert {type(tokenizer) for tokenizer in TOKENIZERS} == set(CLASSES.values())
    assert {how_judged(tokenizer) for tokenizer in TOKENIZERS} == {"grammar"}


@every_tokenizer
def test_real_pieces_are_valid_with_begin_and_end_or_without(tokenizer):
    for tokens in (whole(tokenizer), tokenizer.encode(chorale()), np.append(whole(tokenizer), [tokenizer.pad_id] * 7)):
        assert token_validity(tokens, tokenizer) == 1.0
        assert token_faults(tokens, tokenizer) == []


@every_tokenizer
def test_padding_is_not_counted(tokenizer):
    tokens = whole(tokenizer)
    padded = np.append(tokens, [tokenizer.pad_id] * 9)
    assert validity_counts([padded], tokenizer) == ValidityCounts(len(tokens), len(tokens))


@every_tokenizer
@settings(max_examples=25)
@given(data=st.data())
def test_a_walk_through_the_grammar_says_the_same(tokenizer, data):
    tokens = np.array(data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=15)), np.int64)
    grammar, expected = tokenizer.grammar(), []
    state = grammar.start(1)
    for token in tokens:
        if token != tokenizer.pad_id:
            expected.append(bool(grammar.allowed(state)[0, token]))
        state = grammar.advance(state, token[None])
    assert validity_counts([tokens], tokenizer) == (sum(expected), len(expected))
    assert len(token_faults(tokens, tokenizer)) == len(expected) - sum(expected)


@every_tokenizer
def test_sequences_side_by_side_are_judged_as_one_by_one(tokenizer):
    random = np.random.default_rng(0)
    rows = [
        whole(tokenizer),
        random.integers(0, tokenizer.vocab_size, 30),
        np.zeros(0, np.int64),
        random.integers(0, tokenizer.vocab_size, 5),
    ]
    singly = [validity_counts([row], tokenizer) for row in rows]
    assert validity_counts(rows, tokenizer) == tuple(map(sum, zip(*singly, strict=True)))


def test_voices_out_of_turn_by_hand():
    frame = ids(GRID, "Soprano_72", "Alto_67", "Tenor_64", "Bass_48")
    assert token_validity([*frame, *frame], GRID) == 1.0
    without_alto = [*frame, frame[0], *frame[2:], *frame]
    assert token_validity(without_alto, GRID) == 10 / 11
    assert [str(fault) for fault in token_faults(without_alto, GRID)] == ["token 5: Tenor_64 after Soprano_72"]
    twice = [*frame, frame[0], frame[0], *frame[1:]]
    assert [fault.position for fault in token_faults(twice, GRID)] == [5]
    assert [fault.token for fault in token_faults([*frame[:2], *GRID.end], GRID)] == ["EOS"]
    assert [str(fault) for fault in token_faults(frame[1:], GRID)] == ["token 0: Alto_67 after the start"]


def test_remi_by_hand():
    start = ("BOS", "Bar_None", "TimeSig_3/4", "Position_0")
    note = ("Program_0", "Pitch_60", "Velocity_63", "Duration_1.0.12")
    assert token_validity(ids(REMI, *start, *note, "Position_12", *note, "EOS"), REMI) == 1.0
    faults = {
        "a pitch without its velocity": (*start, "Program_0", "Pitch_60", "Duration_1.0.12", *note),
        "a position that goes back": (*start, *note, "Position_12", *note, "Position_6", *note),
        "a position beyond the bar of 3/4": (*start, *note, "Position_36", *note),
        "music after the end": (*start, *note, "EOS", "Bar_None"),
    }
    found = {what: [fault.position for fault in token_faults(ids(REMI, *names), REMI)] for what, names in faults.items()}
    assert found == {
        "a pitch without its velocity": [6],
        "a position that goes back": [13],
        "a position beyond the bar of 3/4": [8],
        "music after the end": [9],
    }


def test_miditok_judges_neither_the_length_of_a_bar_nor_the_first_token():
    miditok = REMI._miditok
    note = ("Program_0", "Pitch_60", "Velocity_63", "Duration_1.0.12")
    beyond = ids(REMI, "Bar_None", "TimeSig_3/4", "Position_40", *note)
    assert (miditok.tokens_errors(beyond), len(token_faults(beyond, REMI))) == (0.0, 1)
    headless = ids(REMI, *note[2:], "Bar_None", "TimeSig_3/4", "Position_0", *note)
    assert (miditok.tokens_errors(headless), len(token_faults(headless, REMI))) == (0.0, 1)


def test_a_prompt_is_read_and_not_judged():
    frame = ids(GRID, "Soprano_72", "Alto_67", "Tenor_64", "Bass_48")
    bad_prompt = [frame[0], frame[0], *frame[1:], *frame]
    assert token_validity(bad_prompt, GRID) == 8 / 9
    assert validity_counts([bad_prompt], GRID, from_token=5) == (4, 4)
    assert math.isnan(token_validity(bad_prompt, GRID, from_token=9))


@every_tokenizer
def test_ids_beyond_the_vocabulary_are_out_of_turn_and_change_nothing(tokenizer):
    tokens = whole(tokenizer)
    middle = len(tokens) // 2
    broken = np.concatenate([tokens[:middle], [tokenizer.vocab_size, -5], tokens[middle:]])
    assert validity_counts([broken], tokenizer) == (len(tokens), len(tokens) + 2)
    assert [fault.token for fault in token_faults(broken, tokenizer)] == [f"the unknown id {tokenizer.vocab_size}", "the unknown id -5"]


@every_tokenizer
def test_no_tokens_give_nan(tokenizer):
    assert math.isnan(token_validity([], tokenizer))
    assert math.isnan(token_validity([tokenizer.pad_id] * 3, tokenizer))
    assert math.isnan(validity_counts([], tokenizer).share)


@pytest.mark.parametrize("tokenizer", TOKENIZERS[:5], ids=NAMES[:5])
def test_without_a_grammar_what_comes_back_is_valid(tokenizer):
    foreign: Any = WithoutGrammar(tokenizer)
    assert how_judged(foreign) == "round trip"
    tokens = whole(tokenizer)
    assert token_validity(tokens, foreign) == 1.0
    random = np.random.default_rng(1).integers(3, tokenizer.vocab_size, 200)
    assert token_validity(random, foreign) < 0.6


def test_a_lost_token_does_not_come_back_and_a_piece_that_cannot_be_encoded_has_none():
    foreign: Any = WithoutGrammar(GRID)
    frame = ids(GRID, "Soprano_72", "Alto_67", "Tenor_64", "Bass_48")
    assert [fault.position for fault in token_faults([*frame, frame[2], *frame], foreign)] == [4]

    def refuses(notes: Notes) -> np.ndarray:
        raise ValueError("no")

    foreign.encode = refuses
    assert validity_counts([[*GRID.begin, *frame]], foreign) == (4, 8)


def test_illegal_probability_is_what_the_mask_takes_away():
    tokens = np.array([*GRID.begin, *ids(GRID, "Soprano_72", "Alto_67")])
    uniform = np.full((len(tokens), GRID.vocab_size), 1 / GRID.vocab_size)
    grammar, state, legal = GRID.grammar(), GRID.grammar().start(1), []
    for token in tokens:
        legal.append(grammar.allowed(state)[0].mean())
        state = grammar.advance(state, token[None])
    assert illegal_probability(uniform, tokens, GRID) == pytest.approx(1 - np.mean(legal))
    assert illegal_probability(np.eye(GRID.vocab_size)[tokens], tokens, GRID) == 0.0
    assert math.isnan(illegal_probability(np.zeros((0, GRID.vocab_size)), [], GRID))


def test_misuse_is_named():
    foreign: Any = object()
    with pytest.raises(TypeError, match=r"object has neither grammar\(\) nor encode\(\) and decode\(\)"):
        token_validity([1], foreign)
    with pytest.raises(TypeError, match="cannot be judged"):
        TokenValidity(foreign)
    with pytest.raises(ValueError, match=r"shape \(1, 3\), expected those of one piece"):
        token_validity([[1, 2, 3]], GRID)
    with pytest.raises(ValueError, match=r"shape \(2, 3\), expected \(2, "):
        illegal_probability(np.zeros((2, 3)), [1, 1], GRID)
    with pytest.raises(ValueError, match="has no grammar: what is legal cannot be said"):
        illegal_probability(np.zeros((1, GRID.vocab_size)), [1], WithoutGrammar(GRID))  # type: ignore[arg-type]


FRAME = ids(GRID, "Soprano_72", "Alto_67", "Tenor_64", "Bass_48")
ROWS = [[*FRAME, *FRAME], [*FRAME, FRAME[0], *FRAME[2:], 0], [FRAME[0]] * 8]


def updated(rows: list[list[int]]) -> TokenValidity:
    metric = TokenValidity(GRID)
    metric.update([torch.tensor(row) for row in rows])
    return metric


def test_the_metric_is_over_the_tokens_of_all_pieces():
    assert validity_counts(ROWS, GRID) == (8 + 6 + 1, 8 + 7 + 8)
    assert float(updated(ROWS).compute()) == pytest.approx(15 / 23)
    as_batch = TokenValidity(GRID)
    as_batch.update(torch.tensor(ROWS))
    assert float(as_batch.compute()) == pytest.approx(15 / 23)
    one = TokenValidity(GRID)
    one.update(torch.tensor(ROWS[1]))
    one.update(ROWS[2])
    assert float(one.compute()) == pytest.approx(7 / 15)
    assert torch.isnan(updated([]).compute())
    assert as_batch.higher_is_better is True
    assert (as_batch.plot_lower_bound, as_batch.plot_upper_bound) == (0.0, 1.0)


def test_state_goes_through_a_checkpoint_and_merges():
    first, rest = updated(ROWS[:1]), TokenValidity(GRID)
    rest.load_state_dict(first.state_dict())
    rest.update(ROWS[1:])
    assert float(rest.compute()) == pytest.approx(15 / 23)
    merged = updated(ROWS[1:])
    merged.merge_state(first)
    assert float(merged.compute()) == pytest.approx(15 / 23)


def values_on_rank(rank: int) -> float:
    return float(updated(ROWS[rank::2]).compute())


@pytest.mark.slow
def test_two_ranks_agree_on_all_pieces(repository: Path, tmp_path: Path):
    assert values_of_two_ranks(repository, tmp_path, __name__, "values_on_rank") == pytest.approx((15 / 23,) * 2)


@pytest.mark.corpus
@every_tokenizer
def test_chorales_are_valid(tokenizer):
    pieces = load_corpus("chorales", progress=False).split("test")[:10]
    rows = []
    for piece in pieces:
        try:
            rows.append(whole(tokenizer, piece.notes))
        except ValueError:
            continue
    assert rows
    assert validity_counts(rows, tokenizer).share == 1.0
