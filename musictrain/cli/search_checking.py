"""``search --check``: ask ``fit`` what the configuration of every point is, before anything is trained; seconds, in one process.

What is found out is kept in the search's folder, if there is one, so that nobody asks again. Networks of points that vary them are built
without memory, so that a width that the heads do not divide is known before any training.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from musictrain.cli.console import quiet_terminal
from musictrain.cli.exits import FINISHED, UsageError
from musictrain.cli.parse_errors import innermost
from musictrain.cli.search_loading import Loaded, completed, values_under
from musictrain.cli.search_options import misspelled
from musictrain.search.asking import Asking, Refused, value_of
from musictrain.search.definition import SearchError
from musictrain.search.plan import Planned
from musictrain.search.resolving import Base, add_known, read_known, records_of_identities
from musictrain.search.space import points_of, space_fingerprint
from musictrain.search.yaml_text import write_yaml

log = logging.getLogger(__name__)

NETWORK, TOKENIZER = "model.init_args.network", "data.init_args.tokenizer"
MOST_NETWORKS = 2_000  # built to be looked at; what lies beyond, fit will say


def check(loaded: Loaded) -> int:
    """Find out what is not known yet, and say what there is.

    Raises:
        UsageError: for what cannot work: a key that is not known, a space without a point that can be.
    """
    loaded = asked(loaded)
    impossible = [each for each in loaded.planned if each.error]
    print(f"fit can read the configurations of {len(loaded.planned) - len(impossible):,} trials.")
    for error, trials in _by_error(impossible).items():
        print(f"{len(trials):,} cannot be, such as {trials[0].point.words()}: {error}")
    return FINISHED


def asked(loaded: Loaded, *, keep: bool = True) -> Loaded:
    """The search with everything known of it.

    Args:
        loaded: the search as far as it is known.
        keep: whether the rest is kept in its folder, if there is one.

    Raises:
        UsageError: for what cannot work.
    """
    try:
        if loaded.unchecked:
            loaded = _found_out(loaded, keep=keep)
    except SearchError as error:
        raise UsageError(str(error)) from error
    if all(each.error for each in loaded.planned):
        raise UsageError(f"No point of the space can be trained. {loaded.planned[0].point.words()}: {loaded.planned[0].error}")
    return loaded


def _found_out(loaded: Loaded, *, keep: bool) -> Loaded:
    known, fingerprint = read_known(loaded.folder.points), loaded.base.fingerprint
    records: list[dict[str, Any]] = []

    def learn(record: dict[str, Any]) -> Loaded:
        known.take(record)
        records.append(record)
        return completed(loaded, known)

    try:
        with tempfile.TemporaryDirectory(prefix="search-") as folder, quiet_terminal():
            reader = Reader(loaded.base, Path(folder))
            found = learn({"base": fingerprint, "resolved": reader.base})
            if not found.points:
                values = values_under(reader.base)
                points = points_of(found.definition, values)
                found = learn({"space": space_fingerprint(found.definition, values), "points": [dict(point.values) for point in points]})
            for record in records_of_identities(fingerprint, answers(reader, found)):
                found = learn(record)
    finally:
        if keep and loaded.folder.path.is_dir():
            add_known(loaded.folder.points, records)
    return found


def answers(reader: Reader, loaded: Loaded) -> list[Planned]:
    """What the points that are missing come to."""
    assert loaded.config is not None
    varied = loaded.definition.parameters()
    looks = any(f"{key}.".startswith((f"{NETWORK}.", f"{TOKENIZER}.")) for key in varied)
    asking = Asking(loaded.config, reader.read, seed_follows=reader.seed_follows, refuses=Networks().fault if looks else lambda config: "")
    found = asking.planned(loaded.missing)
    log.debug("%d configurations were read for %d trials.", asking.questions, len(found))
    return found


class Reader:
    """Configurations as ``fit`` reads them, by one parser; nothing is built.

    Args:
        base: what lies under the points.
        folder: an empty one, for files.

    Raises:
        UsageError: if what lies under the points cannot be read.
    """

    def __init__(self, base: Base, folder: Path) -> None:
        from musictrain.cli.lightning_cli import MusicCLI, given

        for file, text in zip(base.files(folder), base.texts, strict=True):
            file.write_text(text, encoding="utf-8")
        self._words, self._layer = base.words(folder), folder / "layer.yaml"

        class Parsed(MusicCLI):
            """Reads, and goes no further."""

            model: Any = None

            def instantiate_classes(self) -> None:
                """Nothing."""

            def _run_subcommand(self, subcommand: str) -> None:
                return

        try:
            self._cli = Parsed("fit", self._words)
        except UsageError as error:
            raise UsageError(f"{error}{misspelled(base.overrides)}") from error
        self.base: dict[str, Any] = yaml.safe_load(self._cli.resolved_config())
        self.seed_follows = not given(("data", "init_args", "seed"), self._words)

    def read(self, layer: Mapping[str, Any]) -> Mapping[str, Any]:
        """A layer over what lies under the points, fully resolved.

        Raises:
            Refused: as ``fit`` says it.
        """
        self._layer.write_text(write_yaml(dict(layer)), encoding="utf-8")
        words = [*self._words, "--config", str(self._layer)]
        self._cli._arguments = words
        try:
            self._cli.parse_arguments(self._cli.parser, ["fit", *words])
            self._cli.before_instantiate_classes()
            found: Mapping[str, Any] = yaml.safe_load(self._cli.resolved_config())
        except (UsageError, ValueError) as error:
            raise Refused(innermost(str(error))) from error
        return found


class Networks:
    """Builds networks without memory, each once, to see whether they can be."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}

    def fault(self, config: Mapping[str, Any]) -> str:
        """Why a configuration's network cannot be built; an empty text if it can, or if nobody can tell without building all."""
        told = json.dumps([value_of(config, NETWORK), value_of(config, TOKENIZER)], sort_keys=True, default=str)
        if told not in self._seen:
            self._seen[told] = _fault_of(config) if len(self._seen) < MOST_NETWORKS else ""
        return self._seen[told]


def _fault_of(config: Mapping[str, Any]) -> str:
    from musictrain.checkpoints.stored_network import NetworkError
    from musictrain.cli.stages_checking import network_of, tokenizer_of

    try:
        network_of(config, tokenizer_of(config))
    except NetworkError as error:
        return innermost(str(error.__cause__)) if isinstance(error.__cause__, ValueError) else ""
    except Exception as error:  # somebody's own classes may need more than a configuration: fit will say
        log.debug("A network could not be looked at beforehand: %s", error)
    return ""


def _by_error(impossible: Iterable[Planned]) -> dict[str, list[Planned]]:
    found: dict[str, list[Planned]] = {}
    for each in impossible:
        found.setdefault(each.error, []).append(each)
    return found
