"""A name for every piece of a corpus: short, and no name twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from musictrain.data.scores import SCORE_SUFFIXES
from musictrain.data.sources import Source


def piece_names(rows: list[tuple[Source, str]]) -> list[str]:
    """A name for every piece: its title, else its file without suffix; made unique by the suffix, then by counting."""
    shown = [Path(source.shown) for source, _ in rows]
    # A corpus in one folder needs no folder in its names.
    parents = {path.parent for path in shown}
    plain = [path.name if len(parents) == 1 else path.as_posix() for path in shown]
    stems = [name.removesuffix(Path(name).suffix) if Path(name).suffix.lower() in SCORE_SUFFIXES else name for name in plain]
    twice = Counter(name for name, (_, title) in zip(stems, rows, strict=True) if not title)
    titles = [title or (name if twice[stem] > 1 else stem) for (_, title), name, stem in zip(rows, plain, stems, strict=True)]
    return _counted(titles)


def _counted(titles: list[str]) -> list[str]:
    """The titles, with (2), (3) and so on behind those that came before."""
    names: list[str] = []
    taken: set[str] = set()
    last: Counter[str] = Counter()
    for title in titles:
        name = title
        while name in taken:
            last[title] += 1
            name = f"{title} ({last[title] + 1})"
        taken.add(name)
        names.append(name)
    return names
