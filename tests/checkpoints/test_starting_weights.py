"""A module begins with stored weights: by name, and where the vocabulary is another, by the names of its tokens."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from musictrain.checkpoints.starting_weights import Started, StartMismatchError, give_optimizer, optimizer_start, start_from
from musictrain.checkpoints.vocabulary_rows import VocabularyChange, token_names
from musictrain.data.tokenizers import MidiTokTokenizer, VoiceGrid
from musictrain.models import Decoder, Recurrent
from musictrain.models.voice_frames import VoiceFrames
from musictrain.module import MusicModule
from musictrain.optim import AdamW, parameter_groups

OLD = ("PAD", "BOS", "EOS", "Pitch_60", "Pitch_61", "Rest_1", "Pitch_62")
NEW = ("PAD", "BOS", "EOS", "Pitch_59", "Pitch_60", "Pitch_61", "Velocity_3", "Rest_1")
small = functools.partial(Decoder, d_model=8, num_layers=2, num_heads=2, dropout=0.0, max_context=32)


def module(vocab: int = len(NEW), seed: int = 1, **options: Any) -> MusicModule:
    torch.manual_seed(seed)
    return MusicModule(small(vocab, **options))


def tree_of(trained: nn.Module, **further: Any) -> dict[str, Any]:
    return {"state_dict": copy.deepcopy(trained.state_dict()), "global_step": 7, **further}


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


# Weights


def test_the_same_network_has_the_same_weights_afterwards() -> None:
    trained, fresh = module(seed=1), module(seed=2)
    told = start_from(fresh, tree_of(trained), old=NEW, new=NEW)
    assert same(trained, fresh)
    assert told == Started(len(trained.state_dict()))
    assert told.sentence() == f"{len(trained.state_dict())} tensors"


def test_what_a_module_keeps_beside_its_network_stays_as_it_is() -> None:
    trained, fresh = module(seed=1), module(seed=2)
    trained.matching, fresh.other = nn.Linear(2, 2), nn.Linear(3, 3)
    before = copy.deepcopy(fresh.other)
    start_from(fresh, tree_of(trained))
    assert same(fresh.network, trained.network)
    assert same(fresh.other, before)


@pytest.mark.parametrize("tied", [True, False])
def test_rows_go_by_the_names_of_tokens_and_everything_else_by_its_own(tied: bool) -> None:
    trained, fresh = module(len(OLD), 1, tie_embeddings=tied), module(len(NEW), 2, tie_embeddings=tied)
    told = start_from(fresh, tree_of(trained), old=OLD, new=NEW)
    rows = {"network.embedding.weight"} if tied else {"network.embedding.weight", "network.head.weight"}
    assert set(told.by_token) == rows
    assert (told.added, told.dropped) == (("Pitch_59", "Velocity_3"), ("Pitch_62",))
    for name, value in trained.state_dict().items():
        now = fresh.state_dict()[name]
        if name not in rows:
            assert torch.equal(now, value)
            continue
        for token in set(OLD) & set(NEW):
            assert torch.equal(now[NEW.index(token)], value[OLD.index(token)])
    assert told.sentence().endswith("by the names of tokens; 2 new: Pitch_59, Velocity_3; 1 dropped: Pitch_62")


def test_a_new_token_begins_near_the_mean_of_its_kind_and_one_of_a_new_kind_near_the_mean_of_all() -> None:
    old = tuple(f"Pitch_{each}" for each in range(400)) + tuple(f"Rest_{each}" for each in range(200))
    new = (*old, *(f"Pitch_{each}" for each in range(400, 700)), *(f"Tempo_{each}" for each in range(300)))
    weights = torch.randn(600, 5, dtype=torch.float64) * 0.02
    weights[:400] += 1.0
    rows = VocabularyChange(old, new).rows(weights, "embedding.weight")
    pitches, tempos = rows[600:900], rows[900:]
    torch.testing.assert_close(pitches.mean(0), weights[:400].mean(0), atol=1e-3, rtol=0)
    torch.testing.assert_close(pitches.std(0), 0.1 * weights[:400].std(0), atol=3e-4, rtol=0)
    torch.testing.assert_close(tempos.mean(0), weights.mean(0), atol=1e-2, rtol=0)
    torch.testing.assert_close(tempos.std(0), 0.1 * weights.std(0), atol=1e-2, rtol=0)


def test_new_rows_are_drawn_from_the_seed_alone_and_differ() -> None:
    weights = torch.randn(len(OLD), 4)
    first = VocabularyChange(OLD, NEW, seed=3).rows(weights, "embedding.weight")
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert torch.equal(first, VocabularyChange(OLD, NEW, seed=3).rows(weights, "embedding.weight"))
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first, VocabularyChange(OLD, NEW, seed=4).rows(weights, "embedding.weight"))
    assert not torch.equal(first, VocabularyChange(OLD, NEW, seed=3).rows(weights, "head.weight"))
    assert not torch.equal(first[NEW.index("Pitch_59")], first[NEW.index("Velocity_3")])


@given(st.lists(st.integers(0, 30), unique=True, min_size=1), st.lists(st.integers(0, 30), unique=True, min_size=1))
def test_there_and_back_again_every_token_that_stayed_has_its_row(one: list[int], other: list[int]) -> None:
    old, new = tuple(f"Pitch_{each}" for each in one), tuple(f"Pitch_{each}" for each in other)
    weights = torch.arange(2.0 * len(old)).reshape(-1, 2)
    there = VocabularyChange(old, new).rows(weights, "w")
    back = VocabularyChange(new, old).rows(there, "w")
    stayed = [row for row, token in enumerate(old) if token in new]
    assert there.shape == (len(new), 2)
    assert torch.equal(back[stayed], weights[stayed])
    assert bool(there.isfinite().all())


def test_tokens_that_only_changed_places_are_put_where_they_belong_and_the_blocks_are_not() -> None:
    """Sixteen tokens in a stream of sixteen channels: what a row stands for cannot be told by sizes."""
    old = tuple(f"Pitch_{each}" for each in range(16))
    new = old[::-1]
    torch.manual_seed(0)
    trained, fresh = (MusicModule(Decoder(16, d_model=16, num_layers=1, num_heads=2, tie_embeddings=False)) for _ in range(2))
    told = start_from(fresh, tree_of(trained), old=old, new=new)
    assert set(told.by_token) == {"network.embedding.weight", "network.head.weight"}
    for name, value in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value.flip(0) if name in told.by_token else value)


def test_the_likelihood_of_music_in_common_stays_what_it_was_where_tokens_only_moved() -> None:
    trained, fresh = module(len(OLD), 1), module(len(OLD), 2)
    moved = (*OLD[3:], *OLD[:3])
    start_from(fresh, tree_of(trained), old=OLD, new=moved)
    tokens = torch.randint(0, len(OLD), (2, 9))
    place = torch.tensor([moved.index(token) for token in OLD])
    torch.testing.assert_close(fresh(place[tokens])[..., place], trained(tokens))


def test_voice_grids_of_other_ranges_and_midi_tokenizers_meet_by_name() -> None:
    wide, narrow, events = VoiceGrid(36, 81), VoiceGrid(40, 76), MidiTokTokenizer("TSD")
    names = [token_names(each) for each in (wide, narrow, events)]
    assert all(found is not None and len(found) == each.vocab_size for found, each in zip(names, (wide, narrow, events), strict=True))
    change = VocabularyChange(names[0] or (), names[1] or ())
    assert change.added == ()
    assert len(change.dropped) == 4 * 9
    other = VocabularyChange(names[1] or (), names[2] or ())
    assert set(names[1] or ()) - set(other.dropped) == {"PAD", "BOS", "EOS"}
    assert token_names(object()) is None


@pytest.mark.parametrize("kind", [Recurrent, "foreign"])
def test_foreign_networks_have_their_rows_found_too(kind: Any) -> None:
    class Foreign(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.emb, self.mix, self.out = nn.Embedding(width, 4), nn.GRU(4, 4, batch_first=True), nn.Linear(4, width)
            self.shift = nn.Parameter(torch.randn(width))

    made = [Foreign(len(names)) if kind == "foreign" else Recurrent(len(names), 4, 4, tie_embeddings=False) for names in (OLD, NEW)]
    told = start_from(made[1], tree_of(made[0]), old=OLD, new=NEW)
    assert set(told.by_token) == (
        {"emb.weight", "out.weight", "out.bias", "shift"} if kind == "foreign" else {"embedding.weight", "head.weight"}
    )


@pytest.mark.parametrize(
    ("trained", "fresh", "old", "new", "said"),
    [
        (module(d_model=16), module(), NEW, NEW, r"v7 holds other weights than Decoder .*\(8, 16\) there and \(8, 8\) here.*sizes of then"),
        (module(num_layers=1), module(), NEW, NEW, r"network.blocks.1.*is only here.*more differences"),
        (module(tie_embeddings=False), module(), NEW, NEW, "network.head.weight is only there"),
        (module(len(OLD)), module(), None, NEW, r"\(7, 8\) there and \(8, 8\) here.*both tokenizers are known, and one of them is not"),
        (module(len(OLD), d_model=16), module(), OLD, NEW, r"another vocabulary \(7 tokens there, 8 here\), and Decoder has no tensor"),
    ],
)  # fmt: skip
def test_other_differences_are_refused_by_the_names_of_tensors_and_nothing_is_touched(
    trained: Any, fresh: Any, old: Any, new: Any, said: str
) -> None:
    before = copy.deepcopy(fresh)
    with pytest.raises(StartMismatchError, match=said):
        start_from(fresh, tree_of(trained), old=old, new=new, source="v7")
    assert same(fresh, before)


def test_a_network_without_rows_for_tokens_is_refused_for_another_vocabulary() -> None:
    """VoiceFrames has tables of pitches: of another range, their shapes say so."""
    one, other = VoiceGrid(60, 66), VoiceGrid(60, 67)
    made = [
        MusicModule(VoiceFrames(grid.vocab_size, grid.lowest, grid.highest, embedding=4, hidden=4, head_hidden=4, num_layers=1))
        for grid in (one, other)
    ]
    with pytest.raises(StartMismatchError, match="VoiceFrames"):
        start_from(made[1], tree_of(made[0]), old=token_names(one), new=token_names(other))


def test_two_tokens_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="The vocabulary that was learned calls two tokens 'Pitch_1'"):
        VocabularyChange(("Pitch_1", "Pitch_1"), NEW)


# The optimizer's memory


def trained_some(trained: MusicModule, **options: Any) -> tuple[AdamW, dict[str, Any]]:
    optimizer = AdamW(parameter_groups(trained.network), **options)
    for _ in range(3):
        trained(torch.arange(7)[None]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer, tree_of(trained, optimizer_states=[copy.deepcopy(optimizer.state_dict())])


def steps(trained: MusicModule, optimizer: AdamW, number: int = 2) -> dict[str, Tensor]:
    for _ in range(number):
        trained(torch.arange(7)[None]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return trained.state_dict()


def test_with_the_optimizers_memory_a_new_run_makes_the_steps_of_the_old_one() -> None:
    trained, fresh = module(seed=1), module(seed=2)
    optimizer, tree = trained_some(trained, lr=0.1)
    start_from(fresh, tree)
    new = AdamW(parameter_groups(fresh.network), lr=0.1)
    give_optimizer(fresh, new, optimizer_start(fresh, new, tree, None))
    expected, found = steps(trained, optimizer), steps(fresh, new)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_settings_are_those_of_the_new_run_and_new_tokens_have_no_past() -> None:
    trained, fresh = module(len(OLD), 1), module(len(NEW), 2)
    _, tree = trained_some(trained, lr=0.1)
    change = VocabularyChange(OLD, NEW)
    new = AdamW(parameter_groups(fresh.network), lr=0.003)
    remembered = optimizer_start(fresh, new, tree, change)
    give_optimizer(fresh, new, remembered)
    assert {group["lr"] for group in new.param_groups} == {0.003}
    state = new.state[fresh.network.embedding.weight]
    assert float(state["step"]) == 3.0
    assert state["exp_avg"].shape == (len(NEW), 8)
    assert not state["exp_avg_sq"][[NEW.index(token) for token in change.added]].any()
    assert bool(state["exp_avg_sq"][NEW.index("Pitch_61")].any())
    steps(fresh, new)


@pytest.mark.parametrize(
    ("make", "further", "said"),
    [
        (lambda m: AdamW(parameter_groups(m.network, layer_decay=0.5)), {}, r"v7 was trained by an optimizer of 14\+6 .*AdamW of 1\+7"),
        (lambda m: torch.optim.SGD(parameter_groups(m.network)), {"musictrain_optimizers": [{"class": "AdamW", "groups": [14, 6]}]},
         "trained by AdamW of .* and this run has SGD.*Begin without it"),
        (lambda m: AdamW(parameter_groups(m.network)), {"optimizer_states": []}, "v7 holds no optimizer: it is weights alone"),
    ],
)  # fmt: skip
def test_the_memory_of_another_optimizer_is_refused(make: Any, further: dict[str, Any], said: str) -> None:
    trained = module()
    _, tree = trained_some(trained)
    with pytest.raises(StartMismatchError, match=said):
        optimizer_start(trained, make(trained), {**tree, **further}, None, "v7")


def test_a_memory_that_cannot_go_by_tokens_is_refused() -> None:
    trained, fresh = module(len(OLD), 1), module(len(NEW), 2)
    _, tree = trained_some(trained)
    for state in tree["optimizer_states"][0]["state"].values():
        state["preconditioner"] = torch.eye(8)
    with pytest.raises(
        StartMismatchError, match=r"v7: AdamW remembers of a vocabulary's weight \(7, 8\) more than a number for each value"
    ):
        optimizer_start(fresh, AdamW(parameter_groups(fresh.network)), tree, VocabularyChange(OLD, NEW), "v7")
