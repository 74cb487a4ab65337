"""From a protocol to the configuration of each stage: what it extends, the protocol's keys, its own, and its budget.

A name in ``extends`` is, in this order: an earlier stage, a file (beside the one that names it, else in the working directory), a recipe.
A file may have ``extends`` itself. A stage that extends another has that one's keys, not its budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from musictrain.runs.secrets import hidden_config
from musictrain.stages.merging import laid_over, value_at, with_value
from musictrain.stages.protocol import Budget, Protocol, ProtocolError, Stage, hint
from musictrain.stages.references import check_references

EXTENDS = "extends"
STOPPING = "musictrain.callbacks.MusicalEarlyStopping"
Read = Callable[[Path], Any]


@dataclass(frozen=True)
class Resolved:
    """A stage with its whole configuration, in which references to other stages still stand.

    Args:
        stage: as the protocol says it.
        config: for ``fit``, with the budget in it.
    """

    stage: Stage
    config: Mapping[str, Any]

    def told(self) -> dict[str, Any]:
        """What may not change once the stage has begun: its configuration, and what it took over."""
        over = None if self.stage.hand_over is None else asdict(self.stage.hand_over)
        # It is written down: without secrets.
        return {**hidden_config(self.config), "hand_over": over}


def resolve(protocol: Protocol, folder: Path, recipes: Mapping[str, Path], read: Read) -> dict[str, Resolved]:
    """The configuration of every stage, by its name, in the protocol's order.

    Args:
        protocol: the stages.
        folder: of the protocol's file.
        recipes: files by name.
        read: gives back the plain values of a file.

    Raises:
        ProtocolError: for what cannot be found, goes in a circle, or cannot work.
    """
    names = [stage.name for stage in protocol.stages]
    without_budget: dict[str, dict[str, Any]] = {}
    found: dict[str, Resolved] = {}
    _check_circles(protocol)
    for stage in protocol.stages:
        config: dict[str, Any] = {}
        for each in stage.extends:
            below = without_budget.get(each) or _of_file(each, folder, recipes, read, names, stage.name, ())
            config = _laid_over(config, below, stage.name)
        if not any(each in without_budget for each in stage.extends):
            config = _laid_over(config, protocol.config, stage.name)
        config = _laid_over(config, stage.config, stage.name)
        if not config.get("model") and not config.get("data"):
            raise ProtocolError(
                f"Stage {stage.name!r} has neither model nor data: extend a recipe, such as extends: {next(iter(recipes), 'FILE')}."
            )
        check_references(config, stage.name, list(found))
        without_budget[stage.name] = config
        found[stage.name] = Resolved(stage, with_budget(config, stage.budget))
    return found


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any], stage: str) -> dict[str, Any]:
    try:
        return laid_over(below, above)
    except ValueError as error:
        raise ProtocolError(f"Stage {stage!r}: {error}") from error


def _check_circles(protocol: Protocol) -> None:
    """Refuse stages that extend one another."""
    extends = {stage.name: stage.extends for stage in protocol.stages}
    place = {name: number for number, name in enumerate(extends)}
    for start in extends:
        trail, now = [start], start
        while (after := next((each for each in extends[now] if each in extends and place[each] > place[now]), None)) is not None:
            trail, now = [*trail, after], after
        back = next((each for each in extends[now] if each in trail[:-1]), None)
        if back is not None:
            raise ProtocolError(f"Stages extend one another in a circle: {' -> '.join([*trail, back])}.")


def _of_file(
    text: str, folder: Path, recipes: Mapping[str, Path], read: Read, stages: list[str], stage: str, trail: tuple[Path, ...]
) -> dict[str, Any]:
    """The keys of a file or recipe, over what it extends itself."""
    path = _found(text, folder, recipes, stages, stage)
    if path in trail:
        circle = " -> ".join(each.name for each in (*trail[trail.index(path) :], path))
        raise ProtocolError(f"Stage {stage!r} extends files that extend one another in a circle: {circle}.")
    told = read(path)
    if not isinstance(told, Mapping):
        raise ProtocolError(f"Stage {stage!r} extends {path}, which holds no mapping of keys.")
    if "stages" in told:
        raise ProtocolError(f"Stage {stage!r} extends {path}, which is a protocol itself. Name one of its stages' configurations.")
    above = told.get(EXTENDS) or []
    config: dict[str, Any] = {}
    for each in above if isinstance(above, list) else [above]:
        config = _laid_over(config, _of_file(str(each), path.parent, recipes, read, stages, stage, (*trail, path)), stage)
    return _laid_over(config, {key: value for key, value in told.items() if key != EXTENDS}, stage)


def _found(text: str, folder: Path, recipes: Mapping[str, Path], stages: list[str], stage: str) -> Path:
    given = Path(text).expanduser()
    for path in (folder / given, given):
        if path.is_file():
            return path.resolve()
    if text in recipes:
        return recipes[text].resolve()
    if text in stages:
        raise ProtocolError(f"Stage {stage!r} extends {text!r}, which is no stage before it: stages can extend earlier ones alone.")
    known = [*stages[: stages.index(stage)], *recipes]
    raise ProtocolError(f"Stage {stage!r} extends {text!r}, which is neither an earlier stage nor a file nor a recipe. {hint(text, known)}")


def with_budget(config: Mapping[str, Any], budget: Budget) -> dict[str, Any]:
    """A configuration that trains so long: it alone says where the training ends."""
    result = with_value(config, "trainer.max_steps", -1 if budget.steps is None else budget.steps)
    result = with_value(result, "trainer.max_epochs", -1)
    result = with_value(result, "trainer.max_time", None if budget.minutes is None else as_time(budget.minutes))
    if budget.stop is None:
        return result
    there = value_at(result, "trainer.callbacks") or []
    kept = [each for each in (there if isinstance(there, list) else [there]) if not _is_stopping(each)]
    return with_value(result, "trainer.callbacks", [*kept, {"class_path": STOPPING, "init_args": dict(budget.stop)}])


def _is_stopping(callback: Any) -> bool:
    return isinstance(callback, Mapping) and str(callback.get("class_path", "")).rpartition(".")[2] == STOPPING.rpartition(".")[2]


def as_time(minutes: float) -> str:
    """Minutes as Lightning's ``max_time`` has them: days, hours, minutes, seconds.

    >>> as_time(90.5)
    '00:01:30:30'
    """
    seconds = max(1, round(60 * minutes))
    days, hours, rest = seconds // 86400, seconds // 3600 % 24, seconds % 3600
    return f"{days:02d}:{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"
