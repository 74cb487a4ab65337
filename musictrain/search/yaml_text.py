"""YAML as ``fit`` reads and writes it: ``1e-4`` is a number, and no key stands twice."""

from __future__ import annotations

import re
from typing import Any

import yaml

from musictrain.search.definition import SearchError


class _Loader(yaml.SafeLoader):
    """YAML as fit reads it: ``1e-4`` is a number, where YAML 1.1 has a text."""


class _Dumper(yaml.SafeDumper):
    """YAML that fit reads back: the text ``1e-4`` stands in quotes."""


for _end in (_Loader, _Dumper):
    _end.add_implicit_resolver(  # type: ignore[attr-defined]
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+$"),
        list("-+0123456789."),
    )


def write_yaml(told: Any) -> str:
    """Plain values as a YAML text that ``read_yaml`` and ``fit`` read as what they are."""
    return yaml.dump(told, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_yaml(text: str) -> Any:
    """The plain values of a YAML text.

    >>> read_yaml("lr: [1e-4, 0.001]")
    {'lr': [0.0001, 0.001]}

    Raises:
        SearchError: if it is none, or has a key twice.
    """
    try:
        _check_keys_differ(yaml.compose(text, Loader=_Loader))
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise SearchError(f"This is no YAML: {error}") from error


def _check_keys_differ(node: Any) -> None:
    """YAML would silently take the last of two."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise SearchError(f"The key {key.value!r} stands twice in line {key.start_mark.line + 1}'s mapping: leave one of them.")
            seen.add(str(key.value))
            _check_keys_differ(value)
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _check_keys_differ(each)
