"""What a protocol of stages says: their names, what each extends, its budget, and what it takes over from an earlier one.

    name: folk-to-chorales
    config: {trainer: {accelerator: cpu}}     # for all stages, over what they extend
    stages:
      - name: folk
        extends: folk                         # a recipe, a file, or an earlier stage; or a list of them
        budget: {steps: 400}                  # and, or instead: minutes, stop
      - name: chorales
        extends: chorales
        budget: {minutes: 30, stop: {watch: val/loss, patience: 4}}
        hand_over: {from: folk, version: best, optimizer: false, vocabulary: extend}
        go_on: true                           # a guard that stops this stage does not stop the protocol

Plain Python: what is wrong is said here, by name, before anything is trained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from musictrain.suggestions import did_you_mean

VERSIONS = ("best", "last", "average")
VOCABULARIES = ("same", "extend")
NOTHING = "nothing"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
TOP = ("name", "config", "stages")
OF_STAGE = ("name", "extends", "config", "budget", "hand_over", "go_on")
OF_BUDGET = ("steps", "minutes", "stop")
OF_HAND_OVER = ("from", "version", "of", "optimizer", "vocabulary")
SAID_BY_BUDGET = ("trainer.max_steps", "trainer.max_epochs", "trainer.max_time")
# Where a stage lies and what it begins with is the protocol's to say.
SAID_BY_PROTOCOL = ("name", "runs", "ckpt_path")


class ProtocolError(ValueError):
    """What a protocol says cannot work; the message says what came, what was expected and what to do."""


@dataclass(frozen=True)
class Budget:
    """How long a stage trains: until the first of what is given is reached.

    Args:
        steps: optimizer steps.
        minutes: of training.
        stop: the settings of ``MusicalEarlyStopping``, by which it ends where it no longer gets better.
    """

    steps: int | None = None
    minutes: float | None = None
    stop: Mapping[str, Any] | None = None

    def words(self) -> str:
        """Such as ``400 steps, or until val/loss no longer gets better``."""
        told = [f"{self.steps:,} steps"] if self.steps is not None else []
        told += [f"{self.minutes:g} minutes"] if self.minutes is not None else []
        if self.stop is not None:
            watch = self.stop.get("watch", "val/loss")
            names = [
                each.get("metric", "?") if isinstance(each, Mapping) else each
                for each in ([watch] if not isinstance(watch, list) else watch)
            ]
            told.append(f"until {' and '.join(map(str, names))} no longer gets better")
        return ", or ".join(told)


@dataclass(frozen=True)
class HandOver:
    """What a stage takes over.

    Args:
        source: name of the earlier stage.
        version: ``best`` by val/loss, ``last``, or the ``average`` of the weights of some of the last.
        of: how many versions an average is of, at most.
        optimizer: whether the optimizer's state comes with the weights.
        vocabulary: ``same``, or ``extend``: rows of tokens that both know go by their names, the others begin anew.
    """

    source: str
    version: str = "best"
    of: int = 5
    optimizer: bool = False
    vocabulary: str = "same"

    def words(self) -> str:
        """Such as ``the best weights of folk``."""
        which = f"average of the last {self.of}" if self.version == "average" else self.version
        more = " and the optimizer" if self.optimizer else ""
        by_name = ", tokens by name" if self.vocabulary == "extend" else ""
        return f"{which} weights{more} of {self.source}{by_name}"


@dataclass(frozen=True)
class Stage:
    """One stage as the protocol says it.

    Args:
        name: unique, fit for a file name.
        extends: what its configuration is laid over, in this order.
        config: its own keys.
        budget: how long it trains.
        hand_over: what it begins with, None for nothing.
        go_on: whether the protocol goes on where a guard has stopped this stage.
    """

    name: str
    budget: Budget
    extends: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    hand_over: HandOver | None = None
    go_on: bool = False


@dataclass(frozen=True)
class Protocol:
    """Stages in their order.

    Args:
        name: what its folder is called.
        stages: at least one.
        config: keys of all stages, over what they extend.
    """

    name: str
    stages: tuple[Stage, ...]
    config: Mapping[str, Any] = field(default_factory=dict)

    def stage(self, name: str) -> Stage:
        """The stage of a name.

        Raises:
            ProtocolError: if there is none, with the nearest.
        """
        names = [stage.name for stage in self.stages]
        if name not in names:
            raise ProtocolError(f"There is no stage {name!r}. {hint(name, names)}")
        return self.stages[names.index(name)]


def read_protocol(told: Any, default_name: str, name: str | None = None) -> Protocol:
    """The protocol that a YAML file holds.

    Args:
        told: plain values.
        default_name: its name where it does not say one.
        name: its name whatever it says.

    Raises:
        ProtocolError: for anything that cannot be meant.
    """
    if not isinstance(told, Mapping):
        raise ProtocolError(f"A protocol is a mapping with 'stages', got {type(told).__name__}.")
    if "stages" not in told and ("trainer" in told or "model" in told):
        raise ProtocolError("This is the configuration of one fit: it has no 'stages'. Train it with `musictrain fit --config`.")
    check_keys(told, TOP, "The protocol")
    listed = told.get("stages")
    if not isinstance(listed, list) or not listed:
        raise ProtocolError(f"A protocol needs 'stages', a list of at least one, got {listed!r}.")
    called = checked_name(told.get("name", default_name) if name is None else name, "The protocol")
    stages: list[Stage] = []
    for number, each in enumerate(listed, start=1):
        stages.append(_stage(each, number, [stage.name for stage in stages]))
    return Protocol(called, tuple(stages), mapping(told.get("config"), "The protocol's 'config'"))


def _stage(told: Any, number: int, earlier: list[str]) -> Stage:
    if not isinstance(told, Mapping):
        raise ProtocolError(f"Stage {number} is a mapping with a name and a budget, got {told!r}.")
    name = checked_name(told.get("name"), f"Stage {number}")
    where = f"Stage {name!r}"
    check_keys(told, OF_STAGE, where)
    if name in earlier:
        raise ProtocolError(f"Two stages are called {name!r}. Each needs a name of its own.")
    config = mapping(told.get("config"), f"{where}: 'config'")
    _check_config(config, where)
    go_on = told.get("go_on", False)
    if not isinstance(go_on, bool):
        raise ProtocolError(f"{where}: 'go_on' is true or false, got {go_on!r}.")
    hand_over = _hand_over(told.get("hand_over", "best" if earlier else NOTHING), where, earlier)
    if hand_over is not None and "init_from" in config and "hand_over" in told:
        raise ProtocolError(f"{where} has both 'hand_over' and init_from: {config['init_from']}. Leave one of them out.")
    if "init_from" in config:
        hand_over = None
    return Stage(name, _budget(told.get("budget"), where), _extends(told.get("extends"), where), config, hand_over, go_on)


def _extends(told: Any, where: str) -> tuple[str, ...]:
    listed = [] if told is None else told if isinstance(told, list) else [told]
    for each in listed:
        if not isinstance(each, str) or not each.strip():
            raise ProtocolError(f"{where}: 'extends' is a recipe, a file or an earlier stage, or a list of them, got {each!r}.")
    return tuple(listed)


def _check_config(config: Mapping[str, Any], where: str) -> None:
    trainer = config.get("trainer")
    for key in SAID_BY_BUDGET:
        if key in config or (isinstance(trainer, Mapping) and key.removeprefix("trainer.") in trainer):
            raise ProtocolError(f"{where} sets {key}, which its budget says. Write it there: budget: {{steps: 400}} or {{minutes: 30}}.")
    for key in SAID_BY_PROTOCOL:
        if key in config:
            raise ProtocolError(f"{where} sets {key!r}, which the protocol sees to. Leave it out.")


def _budget(told: Any, where: str) -> Budget:
    example = "budget: {steps: 400}, {minutes: 30} or {stop: {watch: val/loss, patience: 5}}"
    if told is None or told == {}:
        raise ProtocolError(f"{where} has no budget. Say how long it trains: {example}; with several the first one reached ends it.")
    if not isinstance(told, Mapping):
        raise ProtocolError(f"{where}: its budget is a mapping, got {told!r}. Such as {example}.")
    check_keys(told, OF_BUDGET, f"The budget of stage {where.removeprefix('Stage ')}")
    steps, minutes, stop = (told.get(key) for key in OF_BUDGET)
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise ProtocolError(f"{where}: a budget of steps is a whole number above 0, got {steps!r}.")
    if minutes is not None and (isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 < minutes < math.inf):
        raise ProtocolError(f"{where}: a budget of minutes is a number above 0, got {minutes!r}.")
    if stop is not None and not isinstance(stop, Mapping):
        stop = {"watch": stop}
    return Budget(steps, minutes, stop)


def _hand_over(told: Any, where: str, earlier: list[str]) -> HandOver | None:
    if told is None or told == NOTHING:
        return None
    if isinstance(told, str):
        told = {"version": told}
    if not isinstance(told, Mapping):
        raise ProtocolError(f"{where}: 'hand_over' is 'nothing', one of {', '.join(VERSIONS)}, or a mapping, got {told!r}.")
    check_keys(told, OF_HAND_OVER, f"The hand-over of stage {where.removeprefix('Stage ')}")
    if not earlier:
        raise ProtocolError(
            f"{where} is the first: no stage hands anything over to it. Begin with a run by config: {{init_from: RUN@best}}."
        )
    source = told.get("from", earlier[-1])
    if source not in earlier:
        raise ProtocolError(f"{where} takes over from {source!r}, which is no stage before it. {hint(str(source), earlier)}")
    version = one_of(told.get("version", "best"), VERSIONS, f"{where}: the version to take over")
    vocabulary = one_of(told.get("vocabulary", "same"), VOCABULARIES, f"{where}: the vocabulary")
    of, optimizer = told.get("of", HandOver.of), told.get("optimizer", False)
    if isinstance(of, bool) or not isinstance(of, int) or of < 2:
        raise ProtocolError(f"{where}: an average is 'of' 2 versions or more, got {of!r}.")
    if "of" in told and version != "average":
        raise ProtocolError(f"{where}: 'of' says how many versions an average is of, and the version is {version!r}.")
    if not isinstance(optimizer, bool):
        raise ProtocolError(f"{where}: 'optimizer' is true (its state comes with the weights) or false, got {optimizer!r}.")
    if optimizer and version == "average":
        raise ProtocolError(f"{where} cannot take over the optimizer: an average of weights has no optimizer. Say optimizer: false.")
    return HandOver(source, version, of, optimizer, vocabulary)


# What is common to all of it.


def check_keys(told: Mapping[Any, Any], known: tuple[str, ...], where: str) -> None:
    """Refuse keys that nobody reads.

    Raises:
        ProtocolError: naming the first, and the nearest that exists.
    """
    for key in told:
        if key not in known:
            raise ProtocolError(f"{where} has an unknown key {str(key)!r}. {hint(str(key), known)}")


def hint(word: str, known: Iterable[str]) -> str:
    """The nearest word, or all there are."""
    known = list(known)
    return did_you_mean(word, known) or (f"There are: {', '.join(known)}." if known else "There are none.")


def one_of(told: Any, known: tuple[str, ...], what: str) -> str:
    """A word that is one of those that are known.

    Raises:
        ProtocolError: if it is none of them.
    """
    if told not in known:
        raise ProtocolError(f"{what} is one of {', '.join(known)}, got {told!r}. {did_you_mean(str(told), known)}".rstrip())
    return str(told)


def mapping(told: Any, where: str) -> Mapping[str, Any]:
    """A mapping, empty for None.

    Raises:
        ProtocolError: for anything else.
    """
    if told is None:
        return {}
    if not isinstance(told, Mapping):
        raise ProtocolError(f"{where} is a mapping of keys as fit takes them, got {told!r}.")
    return told


def checked_name(told: Any, where: str) -> str:
    """A name that can stand in a file's name.

    Raises:
        ProtocolError: if it cannot, or there is none.
    """
    if told is None:
        raise ProtocolError(f"{where} needs a name: letters, digits, '-', '_' and '.'.")
    if not isinstance(told, str) or not NAME.fullmatch(told) or told == NOTHING:
        raise ProtocolError(
            f"{where} cannot be called {told!r}: a name has letters, digits, '-', '_' and '.', and begins with one of the first two."
        )
    return told
