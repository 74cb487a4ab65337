"""A search as YAML says it, or the command line; what cannot be meant is said here, by name, before anything is trained.

A file holds the space alone (``grid``, ``random``, ``when``, ``constraints``), or a whole search with the space under ``space``.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from musictrain.search.constraints import read_constraint
from musictrain.search.definition import MODES, RULES, VALUES, Condition, Definition, Most, Objective, Random, Rule, SearchError
from musictrain.search.distributions import Distribution, choice, read_distribution
from musictrain.search.points import Point
from musictrain.suggestions import did_you_mean

OF_SPACE = ("grid", "random", "when", "constraints")
TOP = ("name", "config", "overrides", "space", "seeds", "objectives", "rule", "slots", "threads", "most")
OF_RANDOM, OF_CONDITION, OF_OBJECTIVE = ("n", "seed", "space"), ("if", "space"), ("metric", "mode", "value")
OF_RULE, OF_MOST = ("name", "factor", "rungs", "min_steps"), ("trials", "hours")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
LONGEST_NAME = 60
# What the search itself says.
NOT_IN_A_SPACE = {
    "seed_everything": "is what --seeds says: every point is tried with all of them",
    "trainer.max_steps": "is how long a trial trains: every point has the same, and the rule spends less on the worse ones",
    "runs": "says where runs are kept",
    "name": "is the search's to say",
    "ckpt_path": "is the search's to say",
}


def with_space(told: Any) -> dict[str, Any]:
    """What a file holds as a whole search: a space alone is put under ``space``.

    Raises:
        SearchError: if it is neither.
    """
    if not isinstance(told, Mapping):
        raise SearchError(f"A search is a mapping with grid or random, got {type(told).__name__}.")
    own = {key: value for key, value in told.items() if key in OF_SPACE}
    rest = {key: value for key, value in told.items() if key not in OF_SPACE}
    if own and "space" in rest:
        raise SearchError(f"{next(iter(own))!r} stands beside 'space': put it in there.")
    check_keys(rest, (*TOP, *OF_SPACE), "The search")
    return {**rest, "space": own} if own else dict(rest)


def read_definition(told: Any, default_name: str = "search") -> Definition:
    """The search that plain values describe.

    Args:
        told: as ``Definition.told`` gives it; everything but the space may be left out.
        default_name: its name where it does not say one.

    Raises:
        SearchError: for anything that cannot be meant.
    """
    told = with_space(told)
    space = mapping(told.get("space"), "'space'")
    check_keys(space, OF_SPACE, "The space")
    definition = Definition(
        name=checked_name(told.get("name") or default_name),
        config=texts(told.get("config"), "'config'"),
        overrides=texts(told.get("overrides"), "'overrides'"),
        grid=_grids(space.get("grid")),
        random=_random(space.get("random")),
        when=tuple(_condition(each, place) for place, each in enumerate(_listed(space.get("when"), "'when'"), start=1)),
        constraints=tuple(read_constraint(each).text for each in _listed(space.get("constraints"), "'constraints'")),
        seeds=seeds_of(told.get("seeds", Definition.seeds)),
        objectives=objectives_of(told.get("objectives")),
        rule=rule_of(told.get("rule")),
        slots=_whole(told.get("slots", 1), "'slots'"),
        threads=_whole(told.get("threads", 1), "'threads'"),
        most=_most(told.get("most")),
    )
    check_keys_once(definition)
    return definition


def check_keys_once(definition: Definition) -> None:
    """Refuse a key that has two spaces, and those that are the search's own to say.

    Raises:
        SearchError: naming it.
    """
    in_grid = {key for grid in definition.grid for key in grid}
    in_random = {key for space in (definition.random.spaces if definition.random else ()) for key in space}
    if both := sorted(in_grid & in_random):
        raise SearchError(f"{both[0]} is given twice, in the grid and to be drawn: leave one of them.")
    for condition in definition.when:
        if both := sorted((in_grid | in_random) & set(condition.space)):
            raise SearchError(f"{both[0]} is given twice, everywhere and where a condition holds: leave one of them.")
    for key in definition.parameters():
        if key in NOT_IN_A_SPACE:
            raise SearchError(f"{key} cannot be searched over: it {NOT_IN_A_SPACE[key]}.")


def _grids(told: Any) -> tuple[Mapping[str, tuple[Any, ...]], ...]:
    listed = told if isinstance(told, list) else [told] if told is not None else []
    return tuple(_grid(mapping(each, "'grid'")) for each in listed)


def _grid(told: Mapping[str, Any]) -> Mapping[str, tuple[Any, ...]]:
    if not told:
        raise SearchError(
            "The grid is empty: give at least one key with its values, such as {model.init_args.network.init_args.layers: [1, 2]}."
        )
    return {str(key): values_of(each, str(key)) for key, each in told.items()}


def values_of(told: Any, key: str) -> tuple[Any, ...]:
    """The values that a key takes in a grid, each once.

    Raises:
        SearchError: if they are no list, none, or no plain values.
    """
    if isinstance(told, str) and "(" in told:
        raise SearchError(f"{key} in the grid is {told!r}. A grid lists values; to draw them, put it under 'random'.")
    if not isinstance(told, list | tuple):
        raise SearchError(f"{key} in the grid is a list of values, got {told!r}. For this one alone: [{told}].")
    if not told:
        raise SearchError(f"{key} in the grid has no values: give at least one.")
    return _different(told, key)


def _different(values: Sequence[Any], key: str) -> tuple[Any, ...]:
    seen: set[str] = set()
    for value in values:
        try:
            text = Point({key: value}).text
        except (TypeError, ValueError) as error:
            raise SearchError(f"{key} has {value!r} among its values, which no configuration can hold: {error}.") from error
        if text in seen:
            raise SearchError(f"{key} has {value!r} twice among its values: leave one of them.")
        seen.add(text)
    return tuple(values)


def _random(told: Any) -> Random | None:
    if told is None:
        return None
    told = mapping(told, "'random'")
    check_keys(told, OF_RANDOM, "'random'")
    if "n" not in told:
        raise SearchError("'random' needs n: how many points are drawn.")
    seed = told.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise SearchError(f"'random': its seed is a whole number from 0, got {seed!r}.")
    spaces = told.get("space") or {}
    drawn = tuple(_space(mapping(each, "'random': its space"), "'random'") for each in (spaces if isinstance(spaces, list) else [spaces]))
    if not all(drawn):
        raise SearchError("'random' has nothing to draw from: give it space: {KEY: loguniform(1e-4, 1e-2)} or the like.")
    return Random(_whole(told["n"], "'random': n"), seed, drawn)


def _space(told: Mapping[str, Any], where: str) -> Mapping[str, Distribution]:
    return {str(key): drawn_from(each, str(key), where) for key, each in told.items()}


def drawn_from(told: Any, key: str, where: str) -> Distribution:
    """What a key is drawn from.

    Raises:
        SearchError: if that cannot be understood.
    """
    try:
        found = read_distribution(told)
    except ValueError as error:
        raise SearchError(f"{where}, {key}: {error}") from error
    return choice(_different(found.arguments, key)) if found.is_choice else found


def _condition(told: Any, place: int) -> Condition:
    where = f"'when', part {place}"
    told = mapping(told, where)
    check_keys(told, OF_CONDITION, where)
    holds_for, space = (mapping(told.get(key), f"{where}: {key!r}") for key in OF_CONDITION)
    if not holds_for or not space:
        raise SearchError(f"{where} needs both 'if' (the values for which it is there) and 'space' (what is tried then).")
    allowed = {str(key): tuple(each) if isinstance(each, list) else (each,) for key, each in holds_for.items()}
    return Condition(allowed, _space(space, where))


def seeds_of(told: Any) -> tuple[int, ...]:
    """Seeds, each once.

    Raises:
        SearchError: if they are none, no whole numbers, or one stands twice.
    """
    listed = tuple(told) if isinstance(told, list | tuple) else (told,)
    for each in listed:
        if isinstance(each, bool) or not isinstance(each, int) or not 0 <= each < 2**32:
            raise SearchError(f"A seed is a whole number from 0, got {each!r}.")
    if not listed or len(set(listed)) < len(listed):
        twice = next((each for each in listed if listed.count(each) > 1), None)
        raise SearchError(f"The seed {twice} stands twice." if listed else "At least one seed is needed, such as seeds: [0, 1, 2].")
    return listed


def objectives_of(told: Any) -> tuple[Objective, ...]:
    """What points are judged by, in order; ``val/loss`` where nothing is said.

    Raises:
        SearchError: for what cannot be meant, or a metric twice.
    """
    listed = [Objective()] if told is None else [objective_of(each) for each in (told if isinstance(told, list | tuple) else [told])]
    names = [each.metric for each in listed]
    if not names or len(set(names)) < len(names):
        raise SearchError("The same metric stands twice among the objectives." if names else "At least one objective is needed.")
    return tuple(listed)


def objective_of(told: Any) -> Objective:
    """One objective: a mapping, or ``[min:|max:]METRIC[:best|:last]``.

    >>> objective_of("max:val/groove_similarity:last")
    Objective(metric='val/groove_similarity', mode='max', value='last')

    Raises:
        SearchError: for a mode or a value that is not known.
    """
    if isinstance(told, Objective):
        return told
    if isinstance(told, str):
        mode, _, rest = told.partition(":") if told.partition(":")[0] in MODES else ("min", "", told)
        metric, _, value = rest.rpartition(":") if rest.rpartition(":")[2] in VALUES else (rest, "", "best")
        told = {"metric": metric, "mode": mode, "value": value}
    told = mapping(told, "An objective")
    check_keys(told, OF_OBJECTIVE, "An objective")
    metric = told.get("metric")
    if not isinstance(metric, str) or not re.fullmatch(r"[^\s:]+", metric):
        raise SearchError(f"An objective is a metric such as val/loss, or max:val/groove_similarity, got {metric!r}.")
    mode, value = told.get("mode", "min"), told.get("value", "best")
    return Objective(metric, _one_of(mode, MODES, f"The mode of {metric}"), _one_of(value, VALUES, f"The value of {metric}"))


def rule_of(told: Any) -> Rule:
    """When points are given up.

    Raises:
        SearchError: for a rule that is not known, a factor below 2, or rungs that do not rise.
    """
    told = {"name": told} if isinstance(told, str) else mapping(told, "'rule'")
    check_keys(told, OF_RULE, "'rule'")
    name = _one_of(told.get("name", "none"), RULES, "The rule")
    factor = told.get("factor", Rule.factor)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 2 <= factor < math.inf:
        raise SearchError(f"'rule': of so many points one goes on, so that its factor is 2 or more, got {factor!r}.")
    rungs = told.get("rungs") or ()
    listed = tuple(_whole(each, "'rule': a rung") for each in (rungs if isinstance(rungs, list | tuple) else [rungs]))
    if any(after <= before for before, after in itertools.pairwise(listed)):
        raise SearchError(f"'rule': rungs are steps that rise, got {', '.join(map(str, listed))}.")
    min_steps = told.get("min_steps")
    if min_steps is not None and listed:
        raise SearchError("'rule' says both rungs and min_steps: leave one of them.")
    return Rule(name, factor, listed, None if min_steps is None else _whole(min_steps, "'rule': min_steps"))


def _most(told: Any) -> Most:
    told = mapping(told, "'most'")
    check_keys(told, OF_MOST, "'most'")
    hours = told.get("hours")
    if hours is not None and (isinstance(hours, bool) or not isinstance(hours, int | float) or not 0 < hours < math.inf):
        raise SearchError(f"'most': hours is a number above 0, got {hours!r}.")
    return Most(_whole(told.get("trials", Most.trials), "'most': trials"), hours)


def checked_name(told: Any) -> str:
    """A name that a folder can have.

    Raises:
        SearchError: if it cannot be one.
    """
    if not isinstance(told, str) or not NAME.fullmatch(told) or len(told) > LONGEST_NAME:
        raise SearchError(f"A search's name is letters, digits, dots, hyphens and underscores, at most {LONGEST_NAME}, got {told!r}.")
    return told


def check_keys(told: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    """Refuse a key that is not known.

    Raises:
        SearchError: naming the nearest.
    """
    for key in told:
        if key not in known:
            hint = did_you_mean(str(key), known) or f"There are: {', '.join(known)}."
            raise SearchError(f"{where} has no key {key!r}. {hint}")


def mapping(told: Any, where: str) -> Mapping[Any, Any]:
    """``told`` if it is a mapping, an empty one for nothing.

    Raises:
        SearchError: otherwise.
    """
    if told is None:
        return {}
    if not isinstance(told, Mapping):
        raise SearchError(f"{where} is a mapping, got {told!r}.")
    return told


def texts(told: Any, where: str) -> tuple[str, ...]:
    """One text or several.

    Raises:
        SearchError: if they are no texts.
    """
    listed = [] if told is None else list(told) if isinstance(told, list | tuple) else [told]
    if not all(isinstance(each, str) and each.strip() for each in listed):
        raise SearchError(f"{where} is a list of texts, got {told!r}.")
    return tuple(listed)


def _listed(told: Any, where: str) -> list[Any]:
    if told is not None and not isinstance(told, list | tuple):
        raise SearchError(f"{where} is a list, got {told!r}.")
    return list(told or [])


def _whole(told: Any, where: str) -> int:
    if isinstance(told, bool) or not isinstance(told, int) or told < 1:
        raise SearchError(f"{where} is a whole number above 0, got {told!r}.")
    return told


def _one_of(told: Any, known: Sequence[str], where: str) -> str:
    if told not in known:
        raise SearchError(f"{where} is one of {', '.join(known)}, got {told!r}. {did_you_mean(str(told), known)}".rstrip())
    return str(told)
