"""Frames as a network sees them: tokens become classes and back, runs are counted, dropouts drop what they should."""

from __future__ import annotations

import pytest
import torch

from musictrain.data.tokenizers import VoiceGrid
from musictrain.models.block_dropout import BlockDropout
from musictrain.models.feature_bag import FeatureBag
from musictrain.models.frame_classes import FrameClasses
from musictrain.models.frame_features import (
    LONGEST_HOLD,
    decided_before,
    frame_features,
    known_classes,
    note_features,
    note_sizes,
    pair_features,
    pair_sizes,
    run_lengths,
)

CLASSES = FrameClasses(lowest=60, highest=64, max_interval=3)
BEGIN, END, UNKNOWN = CLASSES.bos, CLASSES.eos, CLASSES.unknown


def test_classes_are_those_of_voice_grid() -> None:
    tokenizer = VoiceGrid(60, 64)
    music = tokenizer.encode_frames([[64, 62, -1, 60]])
    tokens = torch.tensor([[*tokenizer.begin, *music, *tokenizer.end, tokenizer.pad_id]])
    assert tokenizer.vocab_size == CLASSES.vocab_size
    assert CLASSES.from_tokens(tokens, 4).tolist() == [[[BEGIN] * 4, [5, 3, 0, 1], [END] * 4, [UNKNOWN] * 4]]


def test_intervals_are_upper_minus_lower_within_bounds() -> None:
    upper, lower = torch.tensor([1, 3, 5, 0, BEGIN, 2]), torch.tensor([3, 3, 1, 3, 3, UNKNOWN])
    assert CLASSES.interval(upper, lower).tolist() == [1, 3, 6, 7, 7, 7]


def test_runs_go_on_from_what_was_before() -> None:
    same = torch.rand(3, 40, 2, generator=torch.Generator().manual_seed(0)) < 0.8
    whole = run_lengths(same, torch.tensor([[0, 7]] * 3))
    first = run_lengths(same[:, :11], torch.tensor([[0, 7]] * 3))
    second = run_lengths(same[:, 11:], first[:, -1])
    assert torch.equal(torch.cat([first, second[:, 1:]], 1), whole)
    by_hand, run = [], 7
    for so in same[1, :, 1].tolist():
        run = run + 1 if so else 0
        by_hand.append(run)
    assert whole[1, :, 1].tolist() == [7, *by_hand]


def test_features_by_hand() -> None:
    frames = torch.tensor([[[BEGIN] * 4, [5, 3, 3, 1], [5, 4, 3, 0], [5, 4, 3, 1]]])
    seen = frame_features(CLASSES, frames, torch.full((1, 4), UNKNOWN), torch.zeros(1, 4, dtype=torch.int64), torch.arange(4) % 16)
    assert seen.hold[0].tolist() == [[0] * 4, [0] * 4, [0] * 4, [1, 0, 1, 0], [2, 1, 2, 0]]
    assert seen.move[0].tolist() == [[7] * 4, [7] * 4, [3, 4, 3, 7], [3, 3, 3, 7]]
    assert seen.phase.tolist() == [[0, 1, 2, 3]]
    known = known_classes(seen, decided_before())
    assert known[0, 2].tolist() == [[5, 3, 3, 1], [5, 3, 3, 1], [5, 4, 3, 1], [5, 4, 3, 1]]


def test_features_stay_within_their_sizes() -> None:
    frames = torch.randint(CLASSES.num_classes, (2, 60, 4), generator=torch.Generator().manual_seed(0))
    frames[:, 10:50] = 2
    last, hold = torch.full((2, 4), UNKNOWN), torch.full((2, 4), LONGEST_HOLD)
    seen = frame_features(CLASSES, frames, last, hold, torch.arange(60) % 16)
    earlier = decided_before()
    notes = note_features(CLASSES, seen, known_classes(seen, earlier), earlier)
    for features, sizes in [
        (pair_features(CLASSES, seen, 29), pair_sizes(CLASSES, 16)),
        *((note, note_sizes(CLASSES, 16)) for note in notes),
    ]:
        assert features.shape[-1] == len(sizes)
        assert (features >= 0).all()
        assert (features < torch.tensor(sizes)).all()


def test_a_bag_adds_up_one_row_a_feature() -> None:
    bag = FeatureBag([2, 3], 4, std=1.0)
    table = bag.table.weight
    torch.testing.assert_close(bag(torch.tensor([[[1, 2]]])), (table[2] + table[5])[None, None])


def test_features_are_left_out_only_while_training() -> None:
    torch.manual_seed(0)
    bag = FeatureBag([3] * 8, 4, std=1.0, dropout=0.5)
    features = torch.zeros(4000, 8, dtype=torch.int64)
    trained = bag(features)
    whole = bag.eval()(features)
    assert torch.equal(whole, whole[:1].expand_as(whole))
    assert len(trained.unique(dim=0)) > 100
    torch.testing.assert_close(trained.mean(0), whole[0], rtol=0, atol=0.2)


def test_block_dropout_has_one_mask_for_some_steps_in_a_row() -> None:
    torch.manual_seed(0)
    dropout = BlockDropout(0.5, block=3)
    dropped = dropout(torch.ones(2, 7, 50))
    for first, last in ((0, 3), (3, 6)):
        assert torch.equal(dropped[:, first:last], dropped[:, first : first + 1].expand(-1, 3, -1))
    assert not torch.equal(dropped[:, 0], dropped[:, 3])
    assert not torch.equal(dropped[0], dropped[1])
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropout.eval()(torch.ones(1, 2, 3)), torch.ones(1, 2, 3))


def test_dropouts_outside_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"A dropout is 1\.0, but must be at least 0 and below 1"):
        BlockDropout(1.0)
    with pytest.raises(ValueError, match=r"The dropout of features is -0\.1, but must be at least 0 and below 1"):
        FeatureBag([2], 4, std=1.0, dropout=-0.1)
