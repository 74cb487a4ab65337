"""Where the pieces of a corpus come from: files of music21's wheel, or a folder of the user's.

A named corpus is listed here with its pattern. Palestrina, Essen and Josquin stand in the wheel too and are not offered: their licences
reserve what is derived from them, forbid commercial use, or are the GPL's.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from musictrain.data.scores import SCORE_SUFFIXES

SPLIT_FOLDERS = {"train": "train", "training": "train", "valid": "valid", "validation": "valid", "val": "valid", "test": "test"}
CHORALE_VOICES = 4


@dataclass(frozen=True)
class Source:
    """One file to read.

    Args:
        path: where it is.
        shown: what the report calls it, such as ``bach/bwv10.7.mxl``; does not depend on the machine.
        split: the split its sub-folder asks for, or "".
        voices: how many parts it must have, highest first, or 0 for whatever it holds.
    """

    path: str
    shown: str
    split: str = ""
    voices: int = 0


@dataclass(frozen=True)
class NamedCorpus:
    """A corpus inside music21's wheel: the folder there, the suffixes taken, the voices asked for."""

    folder: str
    suffixes: tuple[str, ...]
    voices: int = 0


NAMED = {
    "chorales": NamedCorpus("bach", (".mxl", ".xml"), CHORALE_VOICES),
    "ryans": NamedCorpus("ryansMammoth", (".abc",)),
    "oneills": NamedCorpus("oneills1850", (".abc",)),
    "airds": NamedCorpus("airdsAirs", (".abc",)),
}


def named_sources(name: str) -> list[Source]:
    """The files of a named corpus, in order of name.

    Raises:
        FileNotFoundError: if music21's wheel does not carry them.
    """
    named = NAMED[name]
    spec = importlib.util.find_spec("music21")
    places = list(spec.submodule_search_locations or ()) if spec else []
    folder = Path(places[0], "corpus", named.folder) if places else Path(named.folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"music21's corpus folder {named.folder!r} is not installed")
    files = sorted(path for path in folder.iterdir() if path.suffix in named.suffixes)
    return [Source(str(path), f"{named.folder}/{path.name}", voices=named.voices) for path in files]


def folder_sources(folder: Path) -> tuple[list[Source], list[tuple[str, str]]]:
    """The score files of a folder at any depth, in order of name, and the files left out, as (source, reason).

    Hidden files and folders are skipped. Links are followed, each folder is walked once, so loops end. With a sub-folder ``train``
    the sub-folders ``train``, ``valid`` (or ``val``, ``validation``) and ``test`` say the split, and files outside them are left out.
    """
    found, unreadable = _score_files(folder)
    has_splits = any(_split_of(path) == "train" for path in found)
    sources: list[Source] = []
    left_out = [(path.as_posix(), "the folder may not be read") for path in unreadable]
    for path in found:
        split = _split_of(path) if has_splits else ""
        if has_splits and not split:
            left_out.append((path.as_posix(), "stands outside the sub-folders train, valid and test"))
        else:
            sources.append(Source(str(folder / path), path.as_posix(), split))
    return sources, left_out


def _split_of(path: Path) -> str:
    return SPLIT_FOLDERS.get(path.parts[0].lower(), "") if len(path.parts) > 1 else ""


def _score_files(top: Path) -> tuple[list[Path], list[Path]]:
    """The score files below a folder and the folders that may not be read, both relative to it and in order of name."""
    found: list[Path] = []
    unreadable: list[Path] = []
    seen: set[str] = set()
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        try:
            entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
        except OSError:
            unreadable.append(folder.relative_to(top))
            continue
        # Reversed, because the last one in is the first one out: of two links to a folder the first by name counts.
        waiting += sorted((Path(entry.path) for entry in entries if entry.is_dir()), reverse=True)
        found += [Path(entry.path).relative_to(top) for entry in entries if _is_score(entry)]
    return sorted(found), sorted(unreadable)


def _is_score(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(SCORE_SUFFIXES) and not entry.is_dir()
