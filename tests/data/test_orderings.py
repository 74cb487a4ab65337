"""Orderings say of every stretch what its notes say, windows are means over stretches, and what is kept beside the tokens is sound."""

from __future__ import annotations

import logging
import math
import multiprocessing
import shutil
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musictrain.data.orderings import AskedOrderings, Difficulty, Ordering, Stretches, TargetSums, checked_orderings, difficulty_of
from musictrain.data.orderings.difficulty import ranks
from musictrain.data.orderings.kept import fingerprint_of, path_of
from musictrain.data.orderings.musical import MEASURES, beats_of_cuts, measure_stretches
from musictrain.data.orderings.surprisal import PRIOR, nats_of_tokens, offsets_of, surprisal
from musictrain.data.packed_windows import PackedWindows
from musictrain.data.piece_windows import PieceWindows
from musictrain.data.tokenizers import MidiTokTokenizer
from musictrain.metrics.pitch_classes import pitch_class_entropy
from musictrain.metrics.texture import polyphony
from musictrain.notes import Notes
from tests.data.hand_made import GRID, corpus_of, store_of, voices, wandering

PIECES = {f"piece {seed}": wandering(seed, beats, voices) for seed, beats, voices in ((0, 40, 4), (1, 9, 2), (2, 64, 1), (3, 23, 3))}
DRUMS = Notes.from_rows([(beat / 2, 0.25, 36) for beat in range(40)], drum=[True] * 40, track=[7] * 40)
HELD = Notes.from_rows([(0.0, 20.0, 48), *((beat / 2, 0.5, 60 + beat % 5) for beat in range(32))], track=[1, *[0] * 32])
WITH_DRUMS = {**PIECES, "drums": DRUMS, "held": HELD}
TOKENIZERS = {"grid": (GRID, PIECES), "events": (MidiTokTokenizer("REMI"), WITH_DRUMS)}


@pytest.fixture(scope="module", params=TOKENIZERS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Tokenizer, corpus, store and stretches."""
    tokenizer, pieces = TOKENIZERS[request.param]
    corpus = corpus_of(pieces)
    store = store_of(corpus, tmp_path_factory.mktemp("tokens"), tokenizer)
    return tokenizer, corpus, store, Stretches.of(store, tokenizer.tokens_per_step)


# Stretches


def test_stretches_hold_every_token_once_and_none_of_two_pieces() -> None:
    stretches = Stretches(np.array([130, 64, 7]), 64)
    assert stretches.piece.tolist() == [0, 0, 0, 1, 2]
    assert stretches.begins.tolist() == [0, 64, 128, 0, 0]
    assert stretches.tokens.tolist() == [64, 64, 2, 64, 7]
    assert stretches.edges.tolist() == [0, 64, 128, 130, 194, 201]


# Measures against their definitions


def of_notes(name: str, notes: Notes, begin: float, end: float) -> tuple[float, float]:
    """A measure of the music between two beats and what it counts, straight from its definition."""
    starting, pitched = notes.between(begin, end), notes.between(begin, end).pitched()
    sounds = notes.select((notes.onset < end - 1e-6) & (notes.onset + notes.duration > begin + 1e-6))
    if name == "note_density":
        return len(starting) / (end - begin), end - begin
    if name == "pitch_class_entropy":
        return pitch_class_entropy(pitched), len(pitched)
    if name == "rhythmic_variety":
        counts = np.array(list(Counter(np.round(pitched.duration, 6).tolist()).values()))
        return float(-(counts / counts.sum() * np.log2(counts / counts.sum())).sum()), len(pitched)
    if name == "voices":
        return len(set(sounds.track.tolist())), end - begin
    assert name == "polyphony"
    sounds = sounds.pitched()
    begins, ends = np.maximum(sounds.onset, begin), np.minimum(sounds.onset + sounds.duration, end)
    cut = Notes(begins, ends - begins, sounds.pitch)
    edges = np.unique(np.concatenate([begins, ends]))
    anything = sum(b - a for a, b in pairwise(edges) if ((begins <= a) & (ends >= b)).any())
    return polyphony(cut), float(anything)


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_of_a_stretch_is_that_of_its_notes(made: Any, name: str) -> None:
    tokenizer, corpus, store, stretches = made
    by_name = {piece.name: piece.notes for piece in corpus.pieces}
    found = measure_stretches([name], store, store.pieces("train"), stretches, tokenizer, by_name.__getitem__)[name]
    begins_note = np.array([tokenizer.token_name(token).startswith("Pitch") for token in range(tokenizer.vocab_size)])
    compared = 0
    for piece, title in enumerate(store.names):
        notes = by_name[title]
        cuts = beats_of_cuts(notes, store.piece(piece), stretches.size, tokenizer, begins_note)
        for place, (begin, end) in enumerate(pairwise(cuts)):
            number = stretches.first[piece] + place
            value, weight = of_notes(name, notes, begin, end) if end > begin else (0.0, 0.0)
            if weight and math.isfinite(value):
                assert (found.value[number], found.weight[number]) == pytest.approx((value, weight), abs=1e-6), (title, place)
                compared += 1
            else:
                assert found.weight[number] == pytest.approx(0.0, abs=1e-6), (title, place)
    assert compared >= len(store)


def test_a_stretch_of_a_grid_begins_at_the_beat_of_its_first_token(tmp_path: Path) -> None:
    notes = wandering(5, 32)
    tokens = np.concatenate([GRID.begin, GRID.encode(notes), GRID.end])
    cuts = beats_of_cuts(notes, tokens, 64, GRID, np.zeros(GRID.vocab_size, np.bool_))
    # One step of begin, then four steps a beat and four tokens a step.
    assert cuts.tolist() == pytest.approx([0.0, *((at - 4) / 16 for at in range(64, len(tokens), 64)), 32.0])


def test_a_stretch_of_events_begins_with_its_first_note() -> None:
    tokenizer, notes = MidiTokTokenizer("REMI"), wandering(5, 32)
    tokens = np.concatenate([tokenizer.begin, tokenizer.encode(notes), tokenizer.end])
    begins_note = np.array([tokenizer.token_name(token).startswith("Pitch") for token in range(tokenizer.vocab_size)])
    cuts = beats_of_cuts(notes, tokens, 64, tokenizer, begins_note)
    before = [int(begins_note[tokens[:at]].sum()) for at in range(64, len(tokens), 64)]
    assert cuts[1:-1].tolist() == np.append(notes.onset, notes.end)[before].tolist()


def one_after_the_other(first: Notes, second: Notes) -> Notes:
    columns = ([first.onset, second.onset + first.end], [first.duration, second.duration], [first.pitch, second.pitch])
    return Notes(*map(np.concatenate, columns))


HARDER = {
    "length": (voices([1.0] * 32), voices([1.0] * 64), voices([1.0] * 96)),
    "note_density": (voices([1.0] * 64), voices([0.5] * 128), voices([0.25] * 256)),
    "polyphony": (voices([1.0] * 64), voices(*[[1.0] * 64] * 2), voices(*[[1.0] * 64] * 4)),
    "voices": (voices([1.0] * 64), voices(*[[1.0] * 64] * 3), voices(*[[1.0] * 64] * 4)),
    "pitch_class_entropy": tuple(voices([1.0] * 64, pitches=list(range(60, 60 + many))) for many in (1, 3, 7)),
    "rhythmic_variety": (voices([1.0] * 64), voices([1.0, 0.5, 0.5] * 32), voices([1.5, 0.25, 0.25, 1.0, 0.5, 0.5] * 16)),
    "surprisal": (voices([1.0] * 64), one_after_the_other(voices([1.0] * 32), wandering(3, 32, 1)), wandering(8, 64, 1)),
}


@pytest.mark.parametrize("name", HARDER)
@pytest.mark.parametrize("tokenizer", [GRID, MidiTokTokenizer("REMI")], ids=["grid", "events"])
def test_windows_come_in_the_order_of_the_musical_measure(name: str, tokenizer: Any, tmp_path: Path) -> None:
    titles = ("hard", "easy", "middle")
    easy, middle, hard = HARDER[name]
    corpus = corpus_of(dict(zip(titles, (hard, easy, middle), strict=True)))
    store = store_of(corpus, tmp_path, tokenizer)
    difficulty = difficulty_of(store, tokenizer, corpus, {name: 1.0}, {})
    assert difficulty is not None
    windows = PieceWindows(store, store.pieces("train"), 128, tokenizer.tokens_per_step, 0)
    values = difficulty.values(name, windows, 0)
    piece = np.repeat(windows.pieces, windows.counts)
    means = {store.names[number]: values[piece == number].mean() for number in windows.pieces}
    assert means["easy"] < means["middle"] < means["hard"], means
    order = difficulty.order(windows, 0, np.arange(windows.num_windows))
    assert (np.diff(values[order]) >= -1e-9).all()


# Surprisal


def test_surprisal_is_that_of_counting_all_other_tokens_by_hand() -> None:
    pieces = [[1, 2, 1, 2, 3, 1, 2], [1, 2, 3], [4]]
    tokens, within = np.concatenate(pieces), np.concatenate([np.arange(len(piece)) for piece in pieces])
    padded = [[*["-"] * 3, *piece] for piece in pieces]

    def nats(piece: int, place: int) -> float:
        chance = 1 / 4
        for width in range(4):
            contexts = Counter()
            pairs = Counter()
            for number, row in enumerate(padded):
                for at in range(3, len(row)):
                    if (number, at - 3) != (piece, place):
                        context = tuple(row[at - width : at])
                        contexts[context] += 1
                        pairs[context, row[at]] += 1
            own = tuple(padded[piece][place + 3 - width : place + 3])
            chance = (pairs[own, padded[piece][place + 3]] + PRIOR * chance) / (contexts[own] + PRIOR)
        return -math.log(chance)

    expected = [nats(number, place) for number, piece in enumerate(pieces) for place in range(len(piece))]
    assert nats_of_tokens(tokens, within, offsets_of(1)).tolist() == pytest.approx(expected)


def test_what_occurs_once_is_no_less_surprising_for_being_counted() -> None:
    tokens = np.array([1] * 20 + [9])
    nats = nats_of_tokens(tokens, np.arange(21), offsets_of(1))
    assert nats[-1] == nats.max()
    assert nats[-1] > 2.0


def test_surprisal_is_counted_on_training_pieces_alone(tmp_path: Path) -> None:
    corpus = corpus_of(PIECES, {"piece 3": "valid"})
    store = store_of(corpus, tmp_path)
    stretches = Stretches.of(store, 4)
    found = surprisal(store, store.pieces("train"), stretches, 4)
    is_valid = stretches.piece == list(store.names).index("piece 3")
    assert not found.weight[is_valid].any()
    assert (found.weight[~is_valid] > 0).all()
    assert found.weight.sum() == sum(store.length[piece] - 1 for piece in store.pieces("train"))


def test_of_a_large_corpus_as_many_pieces_are_counted_together_as_fit(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, store, stretches = own
    pieces = store.pieces("train")
    monkeypatch.setattr("musictrain.data.orderings.surprisal.AT_ONCE", int(store.length[pieces[:2]].sum()))
    found = surprisal(store, pieces, stretches, 4)
    apart = [surprisal(store, some, stretches, 4) for some in (pieces[:2], pieces[2:3], pieces[3:])]
    in_blocks = [each for each in apart if np.allclose(found.value[each.weight > 0], each.value[each.weight > 0])]
    assert np.array_equal(in_blocks[0].weight > 0, np.isin(stretches.piece, pieces[:2]))
    assert found.weight.sum() == store.num_tokens("train") - len(pieces)


# Windows


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "by_piece"])
def test_a_window_s_value_is_the_mean_over_its_targets(made: Any, packing: bool) -> None:
    _, _, store, stretches = made
    chance = np.random.default_rng(0)
    ordering = Ordering(chance.normal(size=len(stretches)), chance.uniform(0.5, 2.0, len(stretches)))
    # Tokens that are their own places in the store say which of them a window holds.
    store = replace(store, tokens=np.arange(len(store.tokens)))
    pieces, window, step = store.pieces("train"), 48, made[0].tokens_per_step
    windows = PackedWindows(store, pieces, window, step, 3) if packing else PieceWindows(store, pieces, window, step, 3)
    stretch = np.repeat(np.arange(len(stretches)), stretches.tokens)
    weight = (ordering.weight / stretches.tokens)[stretch]
    for epoch in (0, 1):
        found = Difficulty(stretches, {"x": ordering}, {"x": 1.0}).values("x", windows, epoch)
        for index in range(windows.num_windows):
            out = np.full(window + 1, -1)
            windows.fill(epoch, index, out)
            held = out[1:][out[1:] >= 0]
            assert windows.filled(epoch, index) == len(held)
            assert found[index] == pytest.approx(np.average(ordering.value[stretch[held]], weights=weight[held])), (epoch, index)


def test_several_orderings_count_by_the_ranks_they_give(made: Any) -> None:
    _, _, store, stretches = made
    chance = np.random.default_rng(1)
    one, other = (Ordering(chance.normal(size=len(stretches)) * scale, np.ones(len(stretches))) for scale in (1.0, 1e6))
    windows = PackedWindows(store, store.pieces("train"), 48, made[0].tokens_per_step, 3)
    difficulty = Difficulty(stretches, {"one": one, "other": other}, {"one": 3.0, "other": 1.0})
    mean = 3.0 * ranks(difficulty.values("one", windows, 0)) + ranks(difficulty.values("other", windows, 0))
    order = difficulty.order(windows, 0, np.arange(windows.num_windows))
    assert (np.diff(mean[order]) >= -1e-9).all()


def test_of_windows_that_are_alike_others_come_first_in_every_epoch(made: Any) -> None:
    _, _, store, stretches = made
    same = Difficulty(stretches, {"x": Ordering(np.ones(len(stretches)), np.ones(len(stretches)))}, {"x": 1.0})
    windows = PackedWindows(store, store.pieces("train"), 48, made[0].tokens_per_step, 3)
    for shuffled in (np.random.default_rng(seed).permutation(windows.num_windows) for seed in (0, 1)):
        assert np.array_equal(same.order(windows, 0, shuffled), shuffled)


# Losses of a network


def test_sums_of_targets_become_the_means_of_their_stretches() -> None:
    stretches = Stretches(np.array([130, 64]), 64)
    sums = TargetSums(stretches)
    values = np.arange(1.0, 130.0)
    first, second = np.full(100, np.nan), np.full(100, np.nan)
    first[:100], second[:29] = values[:100], values[100:]
    sums.add([0, 0, -1], [0, 100, 0], np.stack([first, second, np.full(100, np.nan)]))
    found = sums.ordering()
    # Target i of a piece is token i of it: the first stretch has 63, since the first token is none.
    assert found.weight.tolist() == [63, 64, 2, 0]
    assert found.value[:3].tolist() == pytest.approx([values[:63].mean(), values[63:127].mean(), values[127:].mean()])


# What is kept beside the tokens


def kept(store: Any, made: Any, name: str = "surprisal") -> Path:
    tokenizer, corpus, _, stretches = made
    return path_of(store, name, fingerprint_of(store, stretches, name, tokenizer.fingerprint, corpus.fingerprint))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    store_of(corpus_of(PIECES), folder)
    return folder


@pytest.fixture
def own(tokens: Path, tmp_path: Path) -> Any:
    """Tokenizer, corpus, store and stretches, the store without any ordering."""
    corpus = corpus_of(PIECES)
    shutil.copytree(tokens, tmp_path, dirs_exist_ok=True)
    store = store_of(corpus, tmp_path)
    return GRID, corpus, store, Stretches.of(store, 4)


def test_an_ordering_is_computed_once_and_leaves_the_store_as_it_is(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, corpus, store, _ = own
    before = store.fingerprint
    first = difficulty_of(store, tokenizer, corpus, {"surprisal": 1.0, "voices": 1.0}, {})
    assert kept(store, own).is_file()
    monkeypatch.setattr("musictrain.data.orderings.computing._computed", None)
    again = difficulty_of(type(store).open(store.folder), tokenizer, corpus, {"voices": 1.0, "surprisal": 1.0}, {})
    assert first is not None
    assert again is not None
    for name in ("surprisal", "voices"):
        assert np.array_equal(first.orderings[name].value, again.orderings[name].value)
        assert np.array_equal(first.orderings[name].weight, again.orderings[name].weight)
    opened = type(store).open(store.folder)
    opened.verify()
    assert opened.fingerprint == before


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "of other stretches"])
def test_a_damaged_ordering_is_computed_again(own: Any, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer, corpus, store, _ = own
    whole = difficulty_of(store, tokenizer, corpus, {"surprisal": 1.0}, {})
    path = kept(store, own)
    content = path.read_bytes()
    if damage == "of other stretches":
        np.savez(path.open("wb"), value=np.zeros(3), weight=np.ones(3))
    else:
        middle = len(content) // 3
        path.write_bytes(
            {"flipped": content[:middle] + bytes([content[middle] ^ 8]) + content[middle + 1 :], "cut": content[:middle], "empty": b""}[
                damage
            ]
        )
    with caplog.at_level(logging.WARNING):
        again = difficulty_of(store, tokenizer, corpus, {"surprisal": 1.0}, {})
    assert "cannot be used and is computed again" in caplog.text
    assert whole is not None
    assert again is not None
    assert np.array_equal(whole.orderings["surprisal"].value, again.orderings["surprisal"].value)
    assert path.read_bytes() == content


def test_another_tokenizer_has_orderings_of_its_own(own: Any, tmp_path: Path) -> None:
    tokenizer, corpus, store, stretches = own
    other = MidiTokTokenizer("REMI")
    of_events = store_of(corpus, tmp_path, other)
    difficulty_of(store, tokenizer, corpus, {"voices": 1.0}, {})
    second = difficulty_of(of_events, other, corpus, {"voices": 1.0}, {})
    assert second is not None
    assert len(second.orderings["voices"].value) == len(Stretches.of(of_events, 1)) != len(stretches)
    prints = {fingerprint_of(store, stretches, "voices", each.fingerprint, corpus.fingerprint) for each in (tokenizer, other)}
    assert len(prints) == 2


def test_where_nothing_can_be_kept_the_ordering_is_computed_and_the_log_says_so(own: Any, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer, corpus, store, _ = own
    (store.folder / "orderings").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert difficulty_of(store, tokenizer, corpus, {"voices": 1.0}, {}) is not None
    assert "The ordering voices cannot be kept beside the tokens" in caplog.text


def _order(folder: str, gate: Any, names: list[str]) -> None:
    corpus = corpus_of(PIECES)
    store = store_of(corpus, Path(folder))
    gate.wait(30)
    difficulty = difficulty_of(store, GRID, corpus, dict.fromkeys(names, 1.0), {})
    assert difficulty is not None
    for name in names:
        assert np.isfinite(difficulty.orderings[name].value).all()


def test_two_processes_may_compute_the_same_at_once(own: Any) -> None:
    _, _, store, _ = own
    context = multiprocessing.get_context("fork")
    gate, names = context.Barrier(2), ["surprisal", "polyphony", "length"]
    both = [context.Process(target=_order, args=(str(store.folder.parent), gate, names)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert sorted(path.name.partition("-")[0] for path in (store.folder / "orderings").iterdir()) == sorted(names)


# Orderings that are computed elsewhere


def test_an_ordering_that_is_taken_in_is_kept_under_its_own_fingerprint(own: Any) -> None:
    tokenizer, corpus, store, stretches = own
    calls: list[str] = []

    def losses(value: float) -> Any:
        def make(of: Stretches) -> Ordering:
            calls.append(f"{value}")
            return Ordering(np.full(len(of), value), np.ones(len(of)))

        return make

    for value, weights in ((1.0, "first network"), (2.0, "second network"), (1.0, "first network")):
        asked = AskedOrderings()
        asked.ask({"reference_loss": 2.0, "voices": 1.0})
        asked.take_in(store, tokenizer, "reference_loss", weights, losses(value))
        difficulty = asked.difficulty(store, tokenizer, corpus)
        assert difficulty is not None
        assert set(difficulty.orderings["reference_loss"].value) == {value}
        assert asked.settings() == {"orderings": {"reference_loss": 2.0, "voices": 1.0}, "taken_in": {"reference_loss": weights}}
    assert calls == ["1.0", "2.0"]
    with pytest.raises(ValueError, match=rf"reference_loss has 2 stretches, expected the {len(stretches)}"):
        asked.take_in(store, tokenizer, "reference_loss", "third", lambda of: Ordering(np.zeros(2), np.ones(2)))


# Messages


def test_what_is_no_ordering_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"orderings names 'suprisal', expected some of length.*Did you mean 'surprisal'"):
        checked_orderings({"suprisal": 1.0})
    for weight in (0.0, -1.0, math.inf, "much", True):
        with pytest.raises(ValueError, match=r"gives voices the weight .*, expected a number above 0"):
            checked_orderings({"voices": weight})
    assert checked_orderings("voices") == {"voices": 1.0}
    assert checked_orderings(None) == {}


def test_a_reference_loss_that_nobody_has_computed_is_refused(own: Any) -> None:
    tokenizer, corpus, store, _ = own
    with pytest.raises(ValueError, match=r"orderings names reference_loss, but no network's losses are there"):
        difficulty_of(store, tokenizer, corpus, {"reference_loss": 1.0}, {})


def test_an_ordering_without_a_number_everywhere_is_refused() -> None:
    for value, weight, reason in (([1.0, math.nan], [1.0, 0.0], "finite"), ([1.0], [1.0, 1.0], "finite"), ([1.0], [-1.0], "weight -1")):
        with pytest.raises(ValueError, match=reason):
            Ordering(np.array(value), np.array(weight))
