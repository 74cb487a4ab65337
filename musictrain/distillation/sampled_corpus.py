"""A corpus of a teacher's own music: what a student of any size, network and tokenizer can learn from it, by ``data.corpus``.

A folder:

    train/piece_00001.mid ...   made by the teacher; with ``mixed``, beside the pieces it was trained on
    valid/ test/                the pieces of its own corpus that it never saw, so that a student is measured on real music
    distilled_corpus.json       who made it and how; written first, and what is made again must be made alike

Pieces are made in rounds, each from its own chance: what was interrupted goes on where it was, and the same seed gives the same files.

Source: sequence-level distillation, Kim & Rush (EMNLP 2016); on chorales, JS Fakes (Peracha, 2021) taught another network this way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from musictrain.data.corpus import Corpus, Piece
from musictrain.data.midi import score_from_notes
from musictrain.data.tokenizers import Tokenizer
from musictrain.generation import sample_pieces
from musictrain.notes import Notes
from musictrain.runs.atomic import atomic_write

RECIPE = "distilled_corpus.json"
ROUND = 16


class OtherCorpusError(ValueError):
    """The folder holds another corpus than the one that is to be made."""


@dataclass(frozen=True)
class Made:
    """What there is now.

    Args:
        pieces: by the teacher.
        fresh: how many of them were made just now.
        cut: how many of those did not come to an end by themselves.
        held_out: pieces of valid and test.
    """

    pieces: int
    fresh: int
    cut: int
    held_out: int


def sample_corpus(
    network: nn.Module,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    num: int,
    recipe: Mapping[str, Any],
    seed: int = 0,
    corpus: Corpus | None = None,
    mixed: bool = False,
    advance: Callable[[], None] = lambda: None,
    **options: Any,
) -> Made:
    """Make what is missing of a corpus of the teacher's music.

    Args:
        network: the teacher's, in eval mode.
        tokenizer: the one it was trained with.
        folder: of the corpus; made if it is not there.
        num: pieces by the teacher; more than last time adds to them.
        recipe: who makes it and how, as plain values, for the folder's ``distilled_corpus.json``.
        seed: the same one gives the same pieces.
        corpus: of the teacher, for valid and test; None leaves them out.
        mixed: whether the pieces that the teacher was trained on are in ``train`` too.
        advance: called after each round.
        options: everything else ``sample_pieces`` takes.

    Raises:
        OtherCorpusError: if the folder holds one of another recipe, or something else.
        ValueError: if an option is out of its range.
        OSError: if it cannot be written.
    """
    _claim(folder, {**recipe, "seed": seed, "mixed": mixed, **{key: value for key, value in options.items() if _is_plain(value)}})
    held_out = 0
    for split in ("valid", "test", *(("train",) if mixed else ())) if corpus is not None else ():
        pieces = corpus.split(split)  # type: ignore[union-attr]
        _write_missing(folder / split, pieces)
        held_out += len(pieces) if split != "train" else 0
    fresh = cut = 0
    for number, paths in _rounds(folder / "train", num):
        if not all(path.is_file() for path in paths):
            made = sample_pieces(network, tokenizer, num=len(paths), seed=seed_of(seed, number), **options)
            for path, piece in zip(paths, made, strict=True):
                _write(path, piece.notes)
            fresh, cut = fresh + len(made), cut + sum(not piece.ended for piece in made)
        advance()
    return Made(num, fresh, cut, held_out)


def num_rounds(num: int) -> int:
    """In how many rounds so many pieces are made."""
    return -(-num // ROUND)


def seed_of(seed: int, number: int) -> int:
    """The seed of a round."""
    return int.from_bytes(hashlib.blake2b(f"{seed},{number}".encode(), digest_size=6).digest(), "little")


def recipe_in(folder: str | Path) -> dict[str, Any]:
    """Who made the corpus in a folder, and how; empty if no teacher did."""
    try:
        told = json.loads((Path(folder) / RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _claim(folder: Path, recipe: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(recipe, indent=1, sort_keys=True) + "\n"
    there = recipe_in(folder)
    if there == json.loads(text):
        return
    if there:
        changed = [
            f"{key}={there.get(key)!r} (you ask for {recipe.get(key)!r})"
            for key in sorted({*there, *recipe})
            if there.get(key) != recipe.get(key)
        ]
        raise OtherCorpusError(f"{folder} holds a corpus that was made with {', '.join(changed)}. Name another folder, or remove that one.")
    if any(folder.iterdir()):
        raise OtherCorpusError(f"{folder} is not empty, and no corpus of a teacher's music: name a new folder.")
    atomic_write(folder / RECIPE, text)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | None)


def _rounds(folder: Path, num: int) -> Iterator[tuple[int, list[Path]]]:
    """The files of each round."""
    for number in range(num_rounds(num)):
        yield number, [folder / f"piece_{each + 1:05d}.mid" for each in range(number * ROUND, min(num, (number + 1) * ROUND))]


def _write_missing(folder: Path, pieces: Sequence[Piece]) -> None:
    for number, piece in enumerate(pieces):
        # Numbered: names of pieces may hold what a file's name cannot.
        path = folder / f"corpus_{number + 1:05d}.mid"
        if not path.is_file():
            _write(path, piece.notes)


def _write(path: Path, notes: Notes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, score_from_notes(notes).dumps_midi(), durable=False)
