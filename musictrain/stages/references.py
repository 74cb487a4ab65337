"""``stage:NAME`` or ``stage:NAME@VERSION`` in a configuration: a version of an earlier stage's run, such as the teacher of a student.

    model: {init_args: {distillation: {init_args: {teacher: stage:large@best}}}}

What stands there becomes ``RUN@VERSION`` when the stage begins, and stays that whatever happens later. Without a version it is the best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from musictrain.stages.protocol import ProtocolError, hint

PREFIX = "stage:"
VERSIONS = ("best", "last")


@dataclass(frozen=True)
class Reference:
    """What one key of a configuration says of an earlier stage.

    Args:
        key: dotted, with the numbers of places in lists.
        stage: its name.
        version: ``best`` or ``last``.
    """

    key: str
    stage: str
    version: str


def references_in(config: Any, key: str = "") -> Iterator[Reference]:
    """All of a configuration, in its order.

    >>> list(references_in({"teacher": "stage:large"}))
    [Reference(key='teacher', stage='large', version='best')]
    """
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from references_in(value, f"{key}.{name}" if key else str(name))
    elif isinstance(config, list):
        for place, value in enumerate(config):
            yield from references_in(value, f"{key}.{place}")
    elif isinstance(config, str) and config.startswith(PREFIX):
        stage, _, version = config.removeprefix(PREFIX).partition("@")
        yield Reference(key, stage, version or VERSIONS[0])


def check_references(config: Any, stage: str, earlier: list[str]) -> None:
    """Refuse what no earlier stage could give.

    Raises:
        ProtocolError: naming the key, and the nearest stage.
    """
    for found in references_in(config):
        if found.stage not in earlier:
            raise ProtocolError(
                f"Stage {stage!r}: {found.key} names the stage {found.stage!r}, which is none before it. {hint(found.stage, earlier)}"
            )
        if found.version not in VERSIONS:
            raise ProtocolError(f"Stage {stage!r}: {found.key} names the version {found.version!r} of {found.stage!r}: say best or last.")


def filled(config: Any, told: Callable[[str, str], str]) -> Any:
    """A copy in which each reference is what ``told(stage, version)`` gives for it.

    >>> filled({"a": ["stage:x@last", 1]}, lambda stage, version: f"run-of-{stage}@{version}")
    {'a': ['run-of-x@last', 1]}
    """
    if isinstance(config, Mapping):
        return {name: filled(value, told) for name, value in config.items()}
    if isinstance(config, list):
        return [filled(value, told) for value in config]
    found = next(references_in(config), None) if isinstance(config, str) else None
    return config if found is None else told(found.stage, found.version)
