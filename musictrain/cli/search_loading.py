"""From a command line to everything that is known of a search before anything is trained, without asking ``fit``: instant.

What only ``fit`` can tell (what keys there are, what a point's whole configuration is) is read from ``points.jsonl``; where that does not
say it yet, ``Loaded.unchecked`` says so, and ``musictrain.cli.search_checking`` finds it out.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from musictrain.cli.exits import UsageError
from musictrain.cli.recipes import find_config
from musictrain.cli.search_budget import check_budget
from musictrain.cli.search_options import misspelled
from musictrain.cli.search_typed import told_of
from musictrain.runs import RunFolder
from musictrain.runs.atomic import atomic_write
from musictrain.search.definition import DEFAULT_SEED, Definition, SearchError
from musictrain.search.folder import SearchFolder
from musictrain.search.keys import dotted, in_full
from musictrain.search.plan import Planned
from musictrain.search.points import Point
from musictrain.search.reading import read_definition
from musictrain.search.resolving import Base, Known, layer_of, read_known, with_rungs
from musictrain.search.space import check_size, largest_number, space_fingerprint
from musictrain.search.yaml_text import read_yaml, write_yaml

BASE = "base"  # in search.yaml: the fingerprint of what lies under every point


@dataclass(frozen=True)
class Loaded:
    """A search that could be meant.

    Args:
        typed: the definition as it was typed.
        definition: with its keys in full and all its rungs, once ``config`` is known; before that as it was typed.
        folder: where it is written down, beside its runs.
        base: what lies under every point.
        config: the same fully resolved; None if it is not known yet.
        points: all of them; empty if they are not known yet.
        planned: trials whose identity is known, those of one point behind one another.
        missing: the points and seeds of the others.
        notes: what there is to say.
        own_seed: whether no seeds were typed, so that the one of the configuration is meant.
    """

    typed: Definition
    definition: Definition
    folder: SearchFolder
    base: Base
    config: Mapping[str, Any] | None = None
    points: tuple[Point, ...] = ()
    planned: tuple[Planned, ...] = ()
    missing: tuple[tuple[Point, int], ...] = ()
    notes: tuple[str, ...] = ()
    own_seed: bool = False

    @property
    def unchecked(self) -> bool:
        """Whether ``fit`` has to be asked before anything can be trained."""
        return self.config is None or not self.points or bool(self.missing)

    @property
    def last_step(self) -> int:
        """Where every trial ends; 0 if it is not known yet."""
        return self.definition.rule.rungs[-1] if self.config is not None else 0

    def words(self, identity: str, point: Point, seed: int) -> list[str]:
        """What ``fit`` is given for a trial; its layer is written down for that.

        Raises:
            OSError: if it cannot be.
        """
        layer = self.folder.layer(identity)
        layer.parent.mkdir(parents=True, exist_ok=True)
        text = write_yaml(layer_of(point.values, seed))
        if not layer.is_file() or layer.read_text(encoding="utf-8") != text:
            atomic_write(layer, text, durable=False)
        return [*self.base.words(self.folder.layers), "--config", str(layer), "--runs", str(self.folder.path.parent)]


def load(options: argparse.Namespace) -> Loaded:
    """The search of a command line, as far as it is known.

    Raises:
        UsageError: for anything in it that cannot work.
    """
    typed = as_typed(options)
    try:
        return completed(typed, read_known(typed.folder.points))
    except SearchError as error:
        raise UsageError(str(error)) from error


def as_typed(options: argparse.Namespace) -> Loaded:
    """The search of a command line, of which nothing else is known.

    Raises:
        UsageError: for anything that cannot be meant.
    """
    try:
        told = told_of(options)
        definition = read_definition(told)
        folder = SearchFolder(Path(options.runs) / definition.name)
        if RunFolder(folder.path).is_run():
            raise SearchError(f"{folder.path} is the folder of a run already. Give the search another name: --name.")
        check_size(definition)
        return Loaded(definition, definition, folder, base_of(definition), own_seed="seeds" not in told)
    except SearchError as error:
        raise UsageError(f"{error}{misspelled(options.overrides)}") from error


def completed(loaded: Loaded, known: Known) -> Loaded:
    """A search with everything that is known of it.

    Raises:
        SearchError: for a key that is not known, rungs that cannot be, more trials than there may be, or another search of this name.
    """
    fingerprint = loaded.base.fingerprint
    check_same_search(loaded.folder, loaded.typed, fingerprint)
    config = known.bases.get(fingerprint)
    if config is None:
        return loaded
    definition, notes = with_rungs(in_full(loaded.typed, config), config)
    if loaded.own_seed:
        definition = replace(definition, seeds=seeds_under(config))
    loaded = replace(loaded, definition=definition, config=config, notes=tuple(notes))
    points = known.spaces.get(space_fingerprint(definition, values_under(config)))
    if points is None:
        if definition.random is None and not definition.constraints and not definition.when:
            check_budget(definition, largest_number(definition), config, loaded.folder)  # before a large grid is listed
        return loaded
    notes += check_budget(definition, len(points), config, loaded.folder)
    planned, missing = known.planned(fingerprint, points, definition.seeds)
    return replace(loaded, points=tuple(points), planned=tuple(planned), missing=tuple(missing), notes=tuple(notes))


def seeds_under(config: Mapping[str, Any]) -> tuple[int, ...]:
    """The one seed of a configuration; one that is drawn anew each time is none."""
    seed = config.get("seed_everything")
    return (DEFAULT_SEED,) if isinstance(seed, bool) or not isinstance(seed, int) else (seed,)


def values_under(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values that constraints may name beyond the space."""
    return {key: value for key, value in dotted(config).items() if not isinstance(value, Mapping | list)}


def check_same_search(folder: SearchFolder, definition: Definition, fingerprint: str) -> None:
    """Refuse a search of the same name that tries something else; more points, seeds and draws are welcome.

    Raises:
        SearchError: naming what is other.
    """
    told = told_before(folder)
    if told is None:
        return
    other = []
    if told.get(BASE) != fingerprint:
        other.append(f"what lies under every point (--config, and words for fit; what it began with is in {folder.layers})")
    was = read_definition({key: value for key, value in told.items() if key != BASE}, folder.name)
    if was.objectives != definition.objectives:
        other.append(f"the objective, which was {', '.join(each.words() for each in was.objectives)}")
    if other:
        raise SearchError(
            f"There is a search {folder.name!r} already, and this one changes {' and '.join(other)}. Its trials would not compare: give it "
            "another name with --name; trials that are the same are not trained again."
        )


def told_before(folder: SearchFolder) -> dict[str, Any] | None:
    """What ``search.yaml`` holds, None if there is none.

    Raises:
        SearchError: if it cannot be read.
    """
    try:
        told = read_yaml(folder.definition.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, SearchError) as error:
        raise SearchError(f"{folder.definition} cannot be read: {error}. Bring it back, or use another --name.") from error
    if not isinstance(told, dict):
        raise SearchError(f"{folder.definition} is not the definition of a search. Bring it back, or use another --name.")
    return told


def write_base(loaded: Loaded) -> None:
    """Copy the layers, so that nobody changes them under way. Before ``fit`` is asked.

    Raises:
        OSError: if they cannot be written.
    """
    folder = loaded.folder.layers
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in zip(loaded.base.files(folder), loaded.base.texts, strict=True):
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            atomic_write(file, text)


def write_definition(loaded: Loaded) -> None:
    """Write the search down, keys in full. Once everything is known of it.

    Raises:
        OSError: if it cannot be written.
    """
    told = {**loaded.definition.told(), BASE: loaded.base.fingerprint}
    atomic_write(loaded.folder.definition, write_yaml(told))


def base_of(definition: Definition) -> Base:
    """What lies under every point.

    Raises:
        UsageError: for a name that is neither a file nor a recipe.
        SearchError: if there is none, or one cannot be read.
    """
    if not definition.config:
        raise SearchError("A search needs a configuration under its points: --config NAME, a recipe or a file.")
    texts = []
    for name in definition.config:
        path = find_config(name)
        try:
            texts.append(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise SearchError(f"{path} cannot be read: {error}") from error
    return Base(definition.config, tuple(texts), definition.overrides)
