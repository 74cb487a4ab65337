"""Table A's protocol: nats per note on the JSB chorales' 16th grid, with code of its own.

Conventions: every one of the 4 x T notes of a piece in frame order (soprano, alto, tenor, bass), rests are a class, the
first frame is predicted too; the negative log likelihoods are summed over all pieces and divided by the number of notes. The
model sees nothing but the notes before the one it predicts: no chord, fermata or bar line, one pass, no augmentation.

The token ids are laid out here a second time and on purpose, from the vocabulary's names alone, so that a fault of the
training road's encoder cannot flatter the number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from musictrain.data.tokenizers import VoiceGrid

Piece = Sequence[Sequence[int]]
VOICES = ("Soprano", "Alto", "Tenor", "Bass")


def token_ids(piece: Piece, ids: dict[str, int]) -> Tensor:
    """The piece's cells as token ids, (4 * frames,), looked up by name."""
    cells = [(voice, pitch) for frame in piece for voice, pitch in enumerate(frame)]
    return torch.tensor([ids[cell_name(voice, pitch)] for voice, pitch in cells])


def cell_name(voice: int, pitch: int) -> str:
    """The name VoiceGrid gives a cell; a negative pitch is a rest."""
    return f"{VOICES[voice]}_{'Rest' if pitch < 0 else pitch}"


@torch.inference_mode()
def note_log_probs(network: nn.Module, cells: Tensor, tokenizer: VoiceGrid) -> Tensor:
    """Log probability of each cell given all cells before it, (4 * frames,), fp32 and in one pass."""
    tokens = torch.cat([torch.tensor(tokenizer.begin), cells])
    log_probs = network(tokens[None, :-1]).float().log_softmax(-1)[0]
    return log_probs[len(tokenizer.begin) - 1 :].gather(-1, cells[:, None])[:, 0]


def nats_per_note(network: nn.Module, pieces: Sequence[Piece], tokenizer: VoiceGrid) -> dict[str, float]:
    """Nats per note over a split, with the share of the four voices and a bootstrap interval over pieces.

    Raises:
        ValueError: if there is no piece.
    """
    if not pieces:
        raise ValueError("Table A needs at least one piece; this split is empty.")
    ids = {tokenizer.token_name(token): token for token in range(tokenizer.vocab_size)}
    network.eval()
    nll = [-note_log_probs(network, token_ids(piece, ids), tokenizer).double() for piece in pieces]
    every = torch.cat(nll)
    low, high = bootstrap_interval(nll)
    by_voice = {name.lower(): float(every[voice::4].mean()) for voice, name in enumerate(VOICES)}
    return {"nats_per_note": float(every.mean()), "low_95": low, "high_95": high, "notes": float(len(every)), **by_voice}


def bootstrap_interval(nll: list[Tensor], *, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean over notes, when whole pieces are drawn again with replacement."""
    sums = torch.stack([piece.sum() for piece in nll])
    counts = torch.tensor([len(piece) for piece in nll], dtype=torch.float64)
    drawn = torch.randint(len(nll), (draws, len(nll)), generator=torch.Generator().manual_seed(seed))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


@torch.inference_mode()
def assert_causal(network: nn.Module, piece: Piece, tokenizer: VoiceGrid) -> None:
    """Fail if a later note changes an earlier probability: then no likelihood of this network means anything."""
    ids = {tokenizer.token_name(token): token for token in range(tokenizer.vocab_size)}
    network.eval()
    cells = token_ids(piece, ids)
    before = note_log_probs(network, cells, tokenizer)
    for cut in range(5, len(cells), max(1, len(cells) // 7)):
        changed = cells.clone()
        changed[cut:] = changed[cut:].roll(4)
        after = note_log_probs(network, changed, tokenizer)
        if not math.isclose(float((after[:cut] - before[:cut]).abs().max()), 0.0, abs_tol=1e-4):
            raise ValueError(f"the network looks ahead: notes from {cut} on changed a probability before {cut}")
