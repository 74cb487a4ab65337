"""A name or a folder becomes a corpus: pieces with their notes, their group and their split.

Reading happens once: the notes go into a cache under a key made of the files, the parsers and the code that reads them. Splits are
made anew each time, which costs nothing, so that another seed or other shares read no file.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from musictrain.data import corpus_store
from musictrain.data.corpus import Corpus, CorpusError, Piece
from musictrain.data.corpus_store import CorpusWriter, NotesStore, StoredCorpus, StoredPiece, cache_root, open_stored
from musictrain.data.jsb16 import read_jsb16
from musictrain.data.mixed_corpora import corpora_named, mixed
from musictrain.data.piece_names import piece_names
from musictrain.data.reading import read_in_order
from musictrain.data.reading_progress import reading_progress
from musictrain.data.scores import SCORE_SUFFIXES
from musictrain.data.source_reading import Reading, described
from musictrain.data.sources import NAMED, Source, folder_sources, named_sources
from musictrain.data.splits import assign_splits, check_fractions
from musictrain.data.tune_groups import tune_groups
from musictrain.notes import Notes
from musictrain.suggestions import did_you_mean

__all__ = ["Corpus", "CorpusError", "Piece", "cache_root", "load_corpus"]

# The modules that decide what is stored: when one of them changes, corpora are read again.
READING_CODE = (
    *("abc_tunes", "corpus_store", "jsb16", "midi", "notation", "pickup"),
    *("piece_names", "scores", "source_reading", "sources", "tune_groups"),
)


@dataclass(frozen=True)
class _StoredNotes:
    """Where a piece's notes are: picklable, unlike a closure."""

    store: NotesStore
    number: int

    def __call__(self) -> Notes:
        return self.store[self.number]


def load_corpus(
    name: str | Path,
    *,
    cache_dir: str | Path | None = None,
    splits: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> Corpus:
    """Read a corpus, or find it in the cache, and split it by groups.

    Args:
        name: ``chorales``, ``ryans``, ``oneills`` or ``airds`` (all from music21's wheel), a folder of score files, or a .json file
            of frames (see ``jsb16``). A name comes before a folder of the same name; write ``./chorales`` for the folder. Several
            joined by ``+`` are one corpus: see ``mixed_corpora``.
        cache_dir: where caches are kept; see ``cache_root``.
        splits: shares of train, valid and test. Sub-folders train, valid and test, or the .json file's own splits, come first.
        seed: of the splits.
        workers: processes that read; None takes one for each CPU, 0 reads in this process.
        progress: whether to show how far reading has come.

    Raises:
        CorpusError: if there is no such corpus, or nothing in it can be read.
        ValueError: if ``splits`` are no shares.
    """
    check_fractions(splits)
    if len(names := corpora_named(name)) > 1:
        each = [load_corpus(one, cache_dir=cache_dir, splits=splits, seed=seed, workers=workers, progress=progress) for one in names]
        return mixed(each, cache_root(cache_dir) / "corpora")
    label, sources, left_out, read = _find(name, workers)
    target = cache_root(cache_dir) / "corpora" / f"{label}-{_key(sources, left_out)}"
    stored = open_stored(target)
    if stored is None:
        with reading_progress(f"Reading {label}", len(sources), shown=progress) as advance:
            _build(target, sources, left_out, read(sources), advance)
        stored = open_stored(target)
    assert stored is not None
    if not stored.pieces:
        raise CorpusError(_nothing_read(name, stored.rejected))
    return _as_corpus(label, stored, splits, seed)


Read = Callable[[list[Source]], Iterable[Reading]]


def _find(name: str | Path, workers: int | None) -> tuple[str, list[Source], list[tuple[str, str]], Read]:
    """The corpus's label, its sources, what is left out of it, and how to read the sources."""

    def read(sources: list[Source]) -> Iterable[Reading]:
        return read_in_order(sources, workers=workers)

    if str(name) in NAMED:
        return str(name), named_sources(str(name)), [], read
    path = Path(name).expanduser()
    if path.is_dir():
        sources, left_out = folder_sources(path)
        if not sources:
            raise CorpusError(_no_scores(path, left_out))
        return path.resolve().name or "folder", sources, left_out, read
    if path.suffix.lower() == ".json" and path.is_file():
        return _find_jsb16(path)
    raise CorpusError(_no_such_corpus(str(name), path))


def _find_jsb16(path: Path) -> tuple[str, list[Source], list[tuple[str, str]], Read]:
    try:
        pieces = read_jsb16(path)
    except (ValueError, OSError) as error:
        raise CorpusError(f"{path} cannot be read as a corpus of frames: {error}.") from error
    sources = [Source(str(path), name, split) for name, split, _ in pieces]
    readings = [Reading([described("", notes)], []) if len(notes) else Reading([], [(name, "no notes in it")]) for name, _, notes in pieces]
    return path.stem, sources, [], lambda _: readings


def _key(sources: list[Source], left_out: list[tuple[str, str]]) -> str:
    """Sixteen hex digits of the files (name, size, time of change), the parsers' versions and the code that reads."""
    parsers = [importlib.metadata.version(parser) for parser in ("music21", "symusic")]
    digest = hashlib.sha256(json.dumps([parsers, left_out]).encode())
    here = Path(corpus_store.__file__).parent
    for module in READING_CODE:
        digest.update((here / f"{module}.py").read_bytes())
    for source in sources:
        try:
            state = Path(source.path).stat()
            change = [state.st_size, state.st_mtime_ns]
        except OSError:
            change = []
        digest.update(json.dumps([source.shown, source.split, source.voices, change]).encode())
    return digest.hexdigest()[:16]


def _build(
    target: Path, sources: list[Source], left_out: list[tuple[str, str]], readings: Iterable[Reading], advance: Callable[[], None]
) -> None:
    """Write what the readings give into the cache, with names and groups."""
    rejected, rows, windows, twins = list(left_out), [], [], []
    with CorpusWriter(target) as writer:
        for source, reading in zip(sources, readings, strict=True):
            rejected += reading.rejected
            for piece in reading.pieces:
                writer.add(piece.notes)
                rows.append((source, piece.title))
                windows.append(piece.windows)
                twins.append(piece.twin)
            advance()
        names = piece_names(rows)
        groups = [names[first] for first in tune_groups(windows, twins)]
        table = zip(names, rows, groups, twins, strict=True)
        writer.finish((StoredPiece(name, source.shown, group, source.split, twin) for name, (source, _), group, twin in table), rejected)


def _as_corpus(label: str, stored: StoredCorpus, fractions: Sequence[float], seed: int) -> Corpus:
    splits = _splits(stored.pieces, fractions, seed)
    digest = hashlib.sha256(stored.content.encode())
    for piece, split in zip(stored.pieces, splits, strict=True):
        digest.update(json.dumps([piece.name, piece.group, split]).encode())
    pieces = [
        Piece(piece.name, piece.source, _StoredNotes(stored.notes, number), piece.group, split)
        for number, (piece, split) in enumerate(zip(stored.pieces, splits, strict=True))
    ]
    warnings = _warnings(pieces, {piece.split for piece in stored.pieces} - {""})
    return Corpus(label, pieces, stored.rejected, digest.hexdigest()[:16], _twins(stored.pieces), warnings)


def _splits(pieces: list[StoredPiece], fractions: Sequence[float], seed: int) -> list[str]:
    """The splits that the sources ask for, else splits by group. Without a given valid, some of train's groups become it."""
    given = [piece.split for piece in pieces]
    if not any(given):
        return assign_splits([piece.group for piece in pieces], fractions, seed)
    if "valid" in given or "train" not in given:
        return given
    train, valid, _ = check_fractions(fractions)
    from_train = [piece.group for piece in pieces if piece.split == "train"]
    dealt = iter(assign_splits(from_train, (train / (train + valid), valid / (train + valid), 0.0), seed))
    return [next(dealt) if split == "train" else split for split in given]


def _twins(pieces: list[StoredPiece]) -> list[tuple[str, ...]]:
    members: dict[str, list[str]] = defaultdict(list)
    for piece in pieces:
        members[piece.twin].append(piece.name)
    return [tuple(names) for names in members.values() if len(names) > 1]


def _warnings(pieces: list[Piece], given: set[str]) -> list[str]:
    """What is doubtful about the splits; ``given`` are those the sources ask for."""
    splits_of: dict[str, set[str]] = defaultdict(set)
    for piece in pieces:
        splits_of[piece.group].add(piece.split)
    found: list[str] = []
    if given and "valid" not in given:
        found.append("No valid split is given: a share of train's groups was taken for it.")
    if not any(piece.split == "valid" for piece in pieces):
        found.append(f"The split valid is empty: there is nothing to validate on. The corpus has {len(splits_of)} group(s) of pieces.")
    divided = [group for group, splits in splits_of.items() if len(splits) > 1]
    if divided:
        found.append(
            f"{len(divided)} of {len(splits_of)} groups stand in more than one of the given splits, the first is that of {divided[0]!r}: "
            "scores on them partly measure memory. The splits were kept as given."
        )
    return found


def _no_such_corpus(name: str, path: Path) -> str:
    if path.exists():
        return f"{name} is a file, expected a corpus name ({', '.join(NAMED)}), a folder of scores or a .json file of frames."
    hint = did_you_mean(name, NAMED)
    return (
        f"No corpus and no folder is called {name!r}. Corpora: {', '.join(NAMED)}; or give the path of a folder of scores. {hint}".rstrip()
    )


def _no_scores(path: Path, left_out: list[tuple[str, str]]) -> str:
    if left_out:
        return f"Nothing in the folder {path} can be used: {left_out[0][0]} {left_out[0][1]}."
    return f"The folder {path} holds no score file at any depth. Expected files that end in {' '.join(SCORE_SUFFIXES)}."


def _nothing_read(name: str | Path, rejected: Sequence[tuple[str, str]]) -> str:
    shown = "".join(f"\n  {where}: {reason}" for where, reason in rejected[:5])
    more = f"\n  and {len(rejected) - 5} more" if len(rejected) > 5 else ""
    return f"None of the {len(rejected)} scores of {name} can be used:{shown}{more}\nGive a folder with at least one readable score."
