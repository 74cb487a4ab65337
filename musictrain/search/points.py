"""A point of the space: what is tried, by dotted key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True, eq=False)
class Point:
    """What a trial tries; two points with the same values are the same point, whatever the order of their keys.

    Args:
        values: plain values by dotted key.
    """

    values: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def text(self) -> str:
        """Canonical: JSON with sorted keys, floats by ``repr``, so that a point read from a file is the one that was written.

        >>> Point({"b": 1e-3, "a": True}).text
        '{"a":true,"b":0.001}'
        """
        return json.dumps(self.values, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits that stand for the values."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def words(self, short: Mapping[str, str] | None = None) -> str:
        """For people: ``lr=0.001, layers=2``.

        Args:
            short: what keys are called; the last part of each if left out.
        """
        names = short if short is not None else {key: key.rpartition(".")[2] for key in self.values}
        return ", ".join(f"{names.get(key, key)}={shown_value(value)}" for key, value in self.values.items())


def shown_value(value: Any) -> str:
    """A value for people: floats to four digits, of a class its name.

    >>> shown_value(0.00012345678), shown_value({"class_path": "musictrain.optim.Lion"})
    ('0.0001235', 'Lion')
    """
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping) and "class_path" in value:
        return str(value["class_path"]).rpartition(".")[2]
    return value if isinstance(value, str) else json.dumps(value)
