"""With a dial, rows are functions of their number and the dial alone: from the corpora and the easiest windows asked for, cut as asked for.

References are the windows themselves: what ``Difficulty`` says of them, and the tokens of whole rows.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from musictrain.curriculum.dial import Dial
from musictrain.data.batches import BatchPlan
from musictrain.data.decks import kept_targets
from musictrain.data.loading import batch_loader
from musictrain.data.orderings import Difficulty, Ordering, Stretches
from musictrain.data.token_store import TokenStore
from musictrain.data.tokenizers import VoiceGrid
from tests.data.test_batches import PAD, Plain, same, store_of

LENGTHS = [24, 60, 16, 100, 36, 8, 44, 200, 28, 64, 12, 92]
STORE = store_of(LENGTHS)
GRID = VoiceGrid(lowest=40, highest=80)
FOLK, BACH = np.arange(0, 7), np.arange(7, 12)
CORPORA = {"folk": FOLK, "bach": BACH}


def grid_store(lengths: list[int]) -> TokenStore:
    """Pieces whose tokens are voices of a grid, the same in every run."""
    place = np.arange(sum(lengths))
    return store_of(lengths, tokens=3 + (place % 4) * GRID.tokens_per_voice + (place * 7919) % 17 + 8)


def difficulty_of(store: TokenStore, seed: int = 0) -> Difficulty:
    """Some difficulty, in stretches of eight tokens."""
    stretches = Stretches(store.length, 8)
    chance = np.random.default_rng(seed)
    ordering = Ordering(chance.normal(size=len(stretches)), chance.uniform(0.5, 1.5, len(stretches)))
    return Difficulty(stretches, {"some": ordering}, {"some": 1.0})


def plan_of(store: TokenStore = STORE, tokenizer: Any = None, **options: Any) -> BatchPlan:
    options = {"window": 16, "batch_size": 6, "difficulty": difficulty_of(store), "corpora": CORPORA, **options}
    return BatchPlan.of(store, tokenizer or Plain(), **options)  # type: ignore[arg-type]


DIALS = {
    "easy": Dial(difficulty=0.3),
    "short": Dial(length=0.5),
    "mixed": Dial(mixture=(("folk", 0.3), ("bach", 0.7))),
    "everything": Dial(difficulty=0.6, length=0.25, mixture=(("bach", 0.5), ("folk", 0.5))),
}


@pytest.fixture(params=[True, False], ids=["packed", "by_piece"])
def packing(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=DIALS)
def dial(request: pytest.FixtureRequest) -> Dial:
    return DIALS[request.param]


# Everything, whole


def test_a_dial_that_leaves_all_as_it_is_gives_the_plan_without_a_curriculum(packing: bool) -> None:
    options: dict[str, Any] = {"tokenizer": GRID, "packing": packing, "transpose": (-5, 6), "mask_notes": 0.3}
    plain = BatchPlan.of(grid_store(LENGTHS), GRID, window=16, batch_size=6, packing=packing, transpose=(-5, 6), mask_notes=0.3)
    steered = plan_of(grid_store(LENGTHS), **options)
    for number in (0, 1, 7, 23):
        assert same(steered.batch(number, dial=Dial()), plain.batch(number))
        assert same(steered.batch(number), plain.batch(number))


@pytest.mark.parametrize(("packed", "digest"), [(True, "ef9a930cacdc9d9e"), (False, "f84bbe56cb28752c")])
def test_batches_stay_what_they_were_before_there_were_curricula(packed: bool, digest: str) -> None:
    # A run that began then would go on with other music if these ever changed.
    lengths = [24, 60, 16, 100, 36, 8, 44, 200, 28]
    plan = BatchPlan.of(grid_store(lengths), GRID, window=32, batch_size=3, seed=4, packing=packed, transpose=(-3, 3), mask_notes=0.2)
    found = hashlib.sha256()
    for batch in map(plan.batch, (0, 1, 5, 17)):
        for name in sorted(batch):
            found.update(np.asarray(batch[name]).astype(np.float64).tobytes())
    assert found.hexdigest()[:16] == digest


# Of the number and the dial alone


def test_a_batch_is_a_function_of_its_number_and_the_dial(packing: bool, dial: Dial) -> None:
    plan, other = plan_of(packing=packing), plan_of(packing=packing)
    in_order = [plan.batch(number, dial=dial) for number in range(30)]
    for number in (29, 3, 17, 0):
        other.batch(number, dial=Dial(0.9))
        assert same(other.batch(number, dial=dial), in_order[number])


@pytest.mark.parametrize(("size", "world_size"), [(2, 1), (12, 1), (4, 2), (6, 3), (24, 4)])
def test_rows_depend_neither_on_the_batch_size_nor_on_the_ranks(packing: bool, dial: Dial, size: int, world_size: int) -> None:
    store = grid_store(LENGTHS)
    options: dict[str, Any] = {"tokenizer": GRID, "packing": packing, "transpose": (-5, 6), "mask_notes": 0.3}
    whole, parts = plan_of(store, batch_size=24, **options), plan_of(store, batch_size=size, **options)
    for k in (0, 2):
        numbers = range(k * 24 // size, (k + 1) * 24 // size)
        dealt = [[parts.batch(number, rank, world_size, dial) for rank in range(world_size)] for number in numbers]
        expected = whole.batch(k, dial=dial)
        for key in expected.keys() - {"number"}:
            rows = [torch.stack([part[key] for part in ranks], dim=1).flatten(0, 1) for ranks in dealt]
            assert torch.equal(torch.cat(rows), expected[key]), key


def test_workers_are_handed_the_dial_with_the_number() -> None:
    plan = plan_of()

    def dial_at(number: int) -> Dial:
        return Dial(difficulty=min(1.0, 0.2 + number / 10), length=1.0 if number > 3 else 0.5)

    for num_workers in (0, 2):
        loader = batch_loader(plan, first=lambda: 2, dial=dial_at, num_workers=num_workers)
        batches = list(loader)
        assert [batch["number"] for batch in batches] == list(range(2, 2 + plan.num_batches))
        assert all(same(batch, plan.batch(batch["number"], dial=dial_at(batch["number"]))) for batch in batches)


# Difficulty


@given(share=st.integers(1, 100), epoch=st.integers(0, 3), packed=st.booleans())
def test_every_row_is_among_the_easiest_and_each_of_them_comes_evenly_often(share: int, epoch: int, packed: bool) -> None:
    plan = plan_of(packing=packed)
    count = plan.windows.num_windows
    values = plan.difficulty.values("some", plan.windows, epoch)  # type: ignore[union-attr]
    most = math.ceil(share * count / 100)
    easiest = set(np.argsort(values, kind="stable")[:most].tolist())
    assert len(set(values.tolist())) == count, "the windows must differ, or the easiest ones are a matter of taste"
    drawn = Counter(plan.dealt(row, Dial(difficulty=share / 100)).window for row in range(epoch * count, (epoch + 1) * count))
    assert set(drawn) == easiest
    assert max(drawn.values()) - min(drawn.values()) <= 1


def test_easy_windows_come_where_they_came_anyway(packing: bool) -> None:
    plan = plan_of(packing=packing)
    count = plan.windows.num_windows
    plain = [plan.dealt(row, Dial()).window for row in range(count)]
    easy = [plan.dealt(row, Dial(difficulty=0.5)).window for row in range(count)]
    stayed = [new == old for new, old in zip(easy, plain, strict=True)]
    assert sum(stayed) == math.ceil(0.5 * count)
    assert {window for window, same in zip(easy, stayed, strict=True) if same} == set(easy)


# Length


@given(window=st.integers(1, 300), step=st.integers(1, 20), shares=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=60))
def test_rows_have_few_widths_all_of_whole_steps(window: int, step: int, shares: list[float]) -> None:
    window *= step
    widths = [kept_targets(window, share, step) for share in sorted(shares)]
    assert widths == sorted(widths)
    assert all(width % step == 0 and step <= width <= window for width in widths)
    assert len(set(widths)) <= 17
    grain = -(-window // (16 * step)) * step
    assert all(abs(width - share * window) <= grain for width, share in zip(widths, sorted(shares), strict=True))
    assert kept_targets(window, 1.0, step) == window


@pytest.mark.parametrize("share", [0.06, 0.25, 0.5, 0.7])
def test_a_short_row_is_a_part_of_the_whole_one(packing: bool, share: float) -> None:
    options: dict[str, Any] = {"window": 64, "packing": packing, "mask_notes": 0.0, **({} if packing else {"align": 8})}
    plan = plan_of(**options)
    kept = kept_targets(64, share, plan.windows.multiple)
    # The piece, or the end of the stream, may go on within a row: the places in the store then jump where those of the whole row do.
    for number in range(2 * plan.num_batches):
        whole, short = plan.batch(number), plan.batch(number, dial=Dial(length=share))
        assert short["tokens"].shape == (6, kept + 1)
        for row in range(6):
            tokens, part = whole["tokens"][row].tolist(), short["tokens"][row].tolist()
            filled = [token for token in part if token != PAD]
            skip = tokens.index(filled[0])
            assert tokens[skip : skip + len(filled)] == filled
            assert len(filled) == min(kept + 1, len([token for token in tokens[skip:] if token != PAD]))
            assert STORE.offset[int(short["piece"][row])] + int(short["start"][row]) == filled[0]
            assert skip % plan.windows.multiple == 0


def test_every_part_of_a_window_is_trained_on_about_equally_often() -> None:
    # One window of 64 targets in each epoch, cut to a quarter.
    plan = BatchPlan.of(store_of([64]), Plain(), window=64, batch_size=1, packing=False)  # type: ignore[arg-type]
    dials = Dial(length=0.25)
    starts = Counter(int(plan.batch(number, dial=dials)["start"][0]) for number in range(800))
    assert sorted(starts) == [0, 16, 32, 48]
    # Of 800 draws with the chance of a quarter, five standard deviations.
    assert all(abs(count - 200) <= 5 * math.sqrt(800 * 0.25 * 0.75) for count in starts.values())


def test_notes_and_beats_of_short_rows_are_in_proportion(packing: bool) -> None:
    plan = plan_of(window=64, packing=packing)
    for number in range(plan.num_batches):
        batch = plan.batch(number, dial=Dial(length=0.25))
        targets = (batch["tokens"][:, 1:] != PAD).sum(dim=1)
        # Ten notes and a quarter of a beat for every token of a piece.
        slack = 1.0 + 1.0 / 7
        assert ((batch["notes"] >= 9.9 * targets) & (batch["notes"] <= 10 * slack * targets)).all()
        assert ((batch["beats"] >= 0.247 * targets) & (batch["beats"] <= 0.25 * slack * targets)).all()


def test_hidden_notes_are_those_of_the_short_row() -> None:
    plan = plan_of(grid_store(LENGTHS), tokenizer=GRID, mask_notes=0.4)
    batch = plan.batch(3, dial=Dial(length=0.5))
    assert batch["hidden"].shape == (6, 8)
    assert batch["hidden"].any()


# Mixtures


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9, 1.0])
def test_corpora_are_drawn_by_their_shares(packing: bool, share: float) -> None:
    plan = plan_of(packing=packing)
    dial = Dial(mixture=(("folk", share), ("bach", 1.0 - share)))
    rows = 3_000
    pieces = np.concatenate([plan.batch(number, dial=dial)["piece"].numpy() for number in range(rows // 6)])
    # Five standard deviations of as many draws.
    assert abs(np.isin(pieces, FOLK).mean() - share) <= 5 * math.sqrt(share * (1 - share) / rows)
    if 0.0 < share < 1.0:
        assert set(pieces.tolist()) >= set(BACH.tolist())


@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("difficulty", [1.0, 0.4])
def test_one_corpus_alone_gives_the_batches_of_that_corpus(packing: bool, corpus: str, difficulty: float) -> None:
    store = grid_store(LENGTHS)
    options: dict[str, Any] = {"tokenizer": GRID, "packing": packing, "transpose": (-5, 6), "mask_notes": 0.3}
    both, alone = plan_of(store, **options), plan_of(store, **options, pieces=CORPORA[corpus])
    dial = Dial(difficulty, mixture=((corpus, 1.0),))
    for number in range(12):
        assert same(both.batch(number, dial=dial), alone.batch(number, dial=Dial(difficulty)))


def test_no_row_of_a_mixture_holds_two_corpora() -> None:
    plan = plan_of(packing=True)
    piece_of = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    for number in range(20):
        tokens = plan.batch(number, dial=DIALS["mixed"])["tokens"].numpy()
        is_folk = np.isin(piece_of[tokens], FOLK)
        assert (is_folk.all(axis=1) | ~is_folk.any(axis=1)).all()


# Messages


def test_what_the_plan_does_not_have_is_refused() -> None:
    without = plan_of(difficulty=None, corpora=None)
    for steered in (without.batch, lambda number, dial: without.checked(dial)):
        with pytest.raises(ValueError, match=r"asks for the easiest windows, but nobody said what is easy.*orderings"):
            steered(0, dial=Dial(0.5))
        with pytest.raises(ValueError, match=r"mixes in 'folk', and only one is trained on \(corpus: a\+b are two\)"):
            steered(0, dial=Dial(mixture=(("folk", 1.0),)))
    with pytest.raises(ValueError, match=r"mixes in 'bahc', expected one of folk, bach\. Did you mean 'bach'"):
        plan_of().batch(0, dial=Dial(mixture=(("bahc", 1.0),)))
    with pytest.raises(ValueError, match=r"mixes in 'bach', of which no piece is left to train on"):
        plan_of(corpora={"folk": FOLK, "bach": BACH[:0]}).batch(0, dial=Dial(mixture=(("bach", 1.0),)))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"difficulty": 0.0}, "difficulty=0.0, expected a share above 0"),
        ({"length": 1.5}, "length=1.5, expected a share above 0 and at most 1"),
        ({"difficulty": math.nan}, "difficulty=nan"),
        ({"mixture": (("a", 0.5), ("b", 0.4))}, "sum to 0.9, expected 1"),
        ({"mixture": (("a", 1.5), ("b", -0.5))}, "and each at least 0"),
        ({"mixture": (("a", 0.5), ("a", 0.5))}, "each corpus once"),
    ],
)
def test_a_dial_that_cannot_be_is_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Dial(**settings)


def test_a_plan_with_a_dial_travels_to_another_process(tmp_path: Path) -> None:
    import pickle

    from tests.data.hand_made import corpus_of, wandering
    from tests.data.hand_made import store_of as kept_store

    store = kept_store(corpus_of({f"piece {seed}": wandering(seed, 24) for seed in range(4)}), tmp_path)
    plan = BatchPlan.of(store, VoiceGrid(), window=64, batch_size=4, difficulty=difficulty_of(store), corpora={"all": np.arange(4)})
    dial = Dial(0.5, 0.5, (("all", 1.0),))
    expected = plan.batch(3, dial=dial)
    assert same(pickle.loads(pickle.dumps(plan)).batch(3, dial=dial), expected)
