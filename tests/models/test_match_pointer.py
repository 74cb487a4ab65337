"""The pointer finds where the music went the last time it went as it goes now, and says nothing where it never has."""

from __future__ import annotations

import torch
from torch import Tensor

from musictrain.models.frame_classes import FrameClasses
from musictrain.models.match_pointer import STRANDS, MatchPointer, Proposal

CLASSES = FrameClasses(lowest=60, highest=79, max_interval=12)
FRAMES_PER_BEAT = 4


def pointed(pointer: MatchPointer, frames: Tensor, beats: int) -> Proposal:
    """What is proposed for frames (batch, frames, 4) that begin a piece, looking up to ``beats`` back."""
    past = torch.full((len(frames), beats * FRAMES_PER_BEAT, 4), CLASSES.unknown)
    before = torch.cat([past[:, -1:], frames[:, :-1]], 1)
    return pointer(past, frames, before, torch.zeros(len(frames), beats, STRANDS, dtype=torch.int64))


def random_frames(batch: int, frames: int, seed: int = 0) -> Tensor:
    return torch.randint(1, CLASSES.pitches + 1, (batch, frames, 4), generator=torch.Generator().manual_seed(seed))


def test_an_exact_repetition_is_found() -> None:
    phrase = random_frames(1, 12)
    pointer = MatchPointer(CLASSES, FRAMES_PER_BEAT)
    proposal = pointed(pointer, torch.cat([phrase, phrase], 1), beats=6)
    right = proposal.mass.gather(-1, torch.cat([phrase, phrase], 1)[..., None])[..., 0]
    assert right[:, :12].max() < 0.3  # nothing has come back yet, but single notes by chance
    assert right[:, 20:].min() > 0.9  # after eight frames of it the rest of the phrase is all but sure
    assert proposal.runs[0, 23, 2].tolist() == [11, 11, 11]  # three beats back


def test_where_nothing_agreed_nothing_is_proposed() -> None:
    frames = torch.arange(1, 17)[None, :, None].expand(-1, -1, 4)
    proposal = pointed(MatchPointer(CLASSES, FRAMES_PER_BEAT), frames, beats=4)
    assert proposal.mass.abs().max() == 0
    assert proposal.trust.abs().max() == 0


def test_the_same_melody_over_another_bass_is_found_by_the_soprano_alone() -> None:
    phrase = random_frames(1, 12)
    other = phrase.clone()
    other[..., 1:] = (phrase[..., 1:] + 6) % CLASSES.pitches + 1
    proposal = pointed(MatchPointer(CLASSES, FRAMES_PER_BEAT), torch.cat([phrase, other], 1), beats=6)
    assert proposal.runs[0, 23, 2].tolist() == [0, 11, 0]
    assert proposal.mass[0, 23, 0].argmax() == phrase[0, 11, 0]
    assert proposal.mass[0, 23, 0].max() > 0.2


def test_a_proposal_does_not_see_the_notes_still_to_be_decided() -> None:
    frames = random_frames(1, 12).repeat(1, 2, 1)
    changed = frames.clone()
    changed[0, 20, 2] = changed[0, 20, 2] % CLASSES.pitches + 1
    before, after = (pointed(MatchPointer(CLASSES, FRAMES_PER_BEAT), music, beats=5).mass for music in (frames, changed))
    assert torch.equal(before[:, :20], after[:, :20])
    assert torch.equal(before[:, 20, :3], after[:, 20, :3])
    assert not torch.equal(before[:, 20, 3], after[:, 20, 3])


def test_shares_are_a_probability_and_trust_is_their_sum() -> None:
    frames = random_frames(2, 40) % 3 + 1
    proposal = pointed(MatchPointer(CLASSES, FRAMES_PER_BEAT), frames, beats=10)
    assert proposal.mass.min() >= 0
    torch.testing.assert_close(proposal.mass.sum(-1), proposal.trust[..., 0])
    assert 0.1 < proposal.trust[..., 0].max() < 1
    held = proposal.mass[:, 1:].gather(-1, frames[:, :-1, :, None])[..., 0]
    torch.testing.assert_close(proposal.trust[:, 1:, :, 1], held)
