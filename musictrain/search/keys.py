"""What a key that was typed stands for: a unique ending of a dotted key of the configuration will do, ``lr`` or ``network.hidden``.

Conventions:

- ``init_args`` may be left out wherever it stands, as on the command line of ``fit``.
- A key in full is meant before any ending; a key of the space before others, in conditions and constraints.
- A key below one that the space itself varies, or below nothing, need not be in the configuration: each point is asked by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from musictrain.search.conditions import check_conditions
from musictrain.search.constraints import read_constraint
from musictrain.search.definition import Condition, Definition, SearchError
from musictrain.search.reading import check_keys_once
from musictrain.suggestions import did_you_mean

ARGUMENTS = "init_args"
MOST_SHOWN = 6


def dotted(config: Any, path: str = "") -> dict[str, Any]:
    """Every key of a configuration by its dotted path, parts with keys below them too; lists are values.

    >>> dotted({"a": {"b": 1}})
    {'a': {'b': 1}, 'a.b': 1}
    """
    found: dict[str, Any] = {}
    for key, value in config.items() if isinstance(config, Mapping) else ():
        name = f"{path}.{key}" if path else str(key)
        found[name] = value
        found |= dotted(value, name)
    return found


def known_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every key that can be meant: Lightning's own ``optimizer`` at the top says nothing where the model has one.

    >>> known_keys({"optimizer": None, "model": {"optimizer": "AdamW"}})
    {'model': {'optimizer': 'AdamW'}, 'model.optimizer': 'AdamW'}
    """
    every = dotted(config)
    ends = {key.rpartition(".")[2] for key in every if "." in key}
    return {key: value for key, value in every.items() if "." in key or value is not None or key not in ends}


def full_key(typed: str, known: Mapping[str, Any], varied: Collection[str] = ()) -> str:
    """The key that is meant.

    >>> full_key("network.hidden", {"model.init_args.network.init_args.hidden": 64})
    'model.init_args.network.init_args.hidden'

    Args:
        typed: the key as it was written.
        known: every key of the configuration, with its value.
        varied: keys in full that the space varies.

    Raises:
        SearchError: if it may mean several, naming them; or none, naming the nearest.
    """
    if typed in known or typed in varied:
        return typed
    found = endings(typed, [*dict.fromkeys([*known, *varied])])
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(found[:MOST_SHOWN]) + (", ..." if len(found) > MOST_SHOWN else "")
        raise SearchError(f"{typed!r} may be any of {shown}. Write more of it.")
    if (below := _below_varied(typed, known, varied)) is not None:
        return below
    raise SearchError(f"There is no key {typed!r} in the configuration. {_nearest(typed, known)}")


def endings(typed: str, known: Iterable[str]) -> list[str]:
    """The keys that end like this, ``init_args`` left out on both sides; those that are meant in full alone, if there are any."""
    wanted = _parts(typed)
    found = {key: parts for key in known if (parts := _parts(key))[-len(wanted) :] == wanted and not key.endswith(f".{ARGUMENTS}")}
    whole = [key for key, parts in found.items() if parts == wanted]
    return whole or list(found)


def _parts(key: str) -> list[str]:
    return [part for part in key.split(".") if part != ARGUMENTS]


def _below_varied(typed: str, known: Mapping[str, Any], varied: Collection[str]) -> str | None:
    """A key of something that the space varies or that is not there yet, None if it is below nothing of the kind."""
    parts = typed.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        above = ".".join(parts[:cut])
        found = [above] if above in known else endings(above, known)
        if len(found) == 1 and (found[0] in varied or known[found[0]] is None):
            rest = parts[cut:] if parts[cut] == ARGUMENTS else [ARGUMENTS, *parts[cut:]]
            return ".".join([found[0], *rest])
    return None


def _nearest(typed: str, known: Collection[str]) -> str:
    """Of keys with as many parts the nearest, by its own ending of that length."""
    wanted = _parts(typed)
    by_ending = {".".join(_parts(key)[-len(wanted) :]): key for key in known}
    return (
        did_you_mean(typed, [*known])
        or did_you_mean(".".join(wanted), by_ending)
        or "All keys: musictrain fit --config NAME --print_config"
    )


def in_full(definition: Definition, config: Mapping[str, Any]) -> Definition:
    """A search with every key in full.

    Args:
        definition: the search as it was typed.
        config: what lies under every point, fully resolved.

    Raises:
        SearchError: for a key that is not known, that may be several, or that is given twice.
    """
    known = known_keys(config)
    names = _names(definition, known)

    def renamed(space: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in space.items():
            if names[key] in found:
                raise SearchError(f"{names[key]} is given twice, once as {key!r}: leave one of them.")
            found[names[key]] = value
        return found

    random = definition.random
    result = replace(
        definition,
        grid=tuple(renamed(grid) for grid in definition.grid),
        random=None if random is None else replace(random, spaces=tuple(renamed(space) for space in random.spaces)),
        when=tuple(Condition(renamed(each.holds_for), renamed(each.space)) for each in definition.when),
    )
    check_keys_once(result)
    check_conditions(result)
    return replace(result, constraints=tuple(_constraint_in_full(text, result, known) for text in definition.constraints))


def _names(definition: Definition, known: Mapping[str, Any]) -> dict[str, str]:
    """The key in full of every one that was typed; what lies below others is looked for last."""
    names: dict[str, str] = {}
    complaints: dict[str, SearchError] = {}
    for key in definition.parameters():
        try:
            names[key] = full_key(key, known)
        except SearchError as error:
            complaints[key] = error
    varied = list(names.values())
    for key in complaints:
        names[key] = full_key(key, known, varied)
    for condition in definition.when:
        for key in condition.holds_for:
            names.setdefault(key, _of_space_first(key, list(names.values()), known))
    return names


def _of_space_first(typed: str, varied: Collection[str], known: Mapping[str, Any]) -> str:
    found = endings(typed, varied)
    return found[0] if len(found) == 1 else full_key(typed, known, varied)


def _constraint_in_full(text: str, definition: Definition, known: Mapping[str, Any]) -> str:
    constraint, varied = read_constraint(text), definition.parameters()
    names = {name: _of_space_first(name, varied, known) for name in constraint.names}
    # As it was written, where nothing is to be changed.
    return text if all(name == full for name, full in names.items()) else constraint.renamed(names).text


def short_names(keys: Collection[str]) -> dict[str, str]:
    """What to call keys where there is little room: the shortest endings that tell them apart.

    >>> short_names(["model.init_args.optimizer.init_args.lr", "data.init_args.window"])
    {'model.init_args.optimizer.init_args.lr': 'lr', 'data.init_args.window': 'window'}
    """
    found: dict[str, str] = {}
    for key in keys:
        parts = _parts(key)
        lengths = (length for length in range(1, len(parts)) if len(endings(".".join(parts[-length:]), keys)) == 1)
        found[key] = ".".join(parts[-next(lengths, len(parts)) :])
    return found
