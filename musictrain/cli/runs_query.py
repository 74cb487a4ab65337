"""Which runs, in which order, and what is said of each: names of values, conditions, sorting.

Conventions. A value of a run goes by one of these names, looked for in this order:

- a fact: ``name``, ``state``, ``step``, ``created``, ``model``, ``best``, ...
- a metric: ``val/loss`` is the value recorded last; ``val/loss.min``, ``.max`` and their ``.min_step``, ``.max_step``.
- a setting by its dotted key or the end of one, as long as that is one key alone: ``optimizer.init_args.lr``, ``lr``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from musictrain.cli.exits import UsageError
from musictrain.cli.runs_texts import inert
from musictrain.runs.folder import number
from musictrain.runs.index import RunIndex
from musictrain.suggestions import did_you_mean

HIDDEN = {"id", "files", "metrics_offset", "metrics_before", "told_state", "pid", "process_started"}
ALIASES = {"run": "name", "best": "best_value", "at": "best_step", "started": "created", "elapsed": "elapsed_seconds", "tag": "tags"}
TIMES = {"created", "updated", "ended"}
PARTS = ("last", "last_step", "min", "min_step", "max", "max_step")
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    **{"<=": operator.le, ">=": operator.ge, "!=": operator.ne, "==": operator.eq},
    **{"<": operator.lt, ">": operator.gt, "=": operator.eq},
    "~": lambda value, wanted: str(wanted).lower() in str(value).lower(),
}
CONDITION = re.compile(r"\s*(?P<key>.+?)\s*(?P<operator><=|>=|!=|==|=|<|>|~)\s*(?P<value>.*?)\s*", re.DOTALL)

Row = dict[str, Any]
ValueOf = Callable[[Row], Any]


class Condition(NamedTuple):
    """One ``--where``: a value, how it is compared, and with what."""

    key: str
    operator: str
    wanted: str


def parse_condition(text: str) -> Condition:
    """A condition as it was typed.

    >>> parse_condition("val/loss<=0.5")
    Condition(key='val/loss', operator='<=', wanted='0.5')

    Raises:
        UsageError: if it is none.
    """
    found = CONDITION.fullmatch(text)
    if found is None:
        raise UsageError(
            f"--where expects a condition such as 'val/loss<0.5' or 'model=Decoder', got {text!r}. Signs: {' '.join(OPERATORS)}"
        )
    return Condition(found["key"], found["operator"], found["value"])


class Runs:
    """The runs of an index, and the values they go by."""

    def __init__(self, index: RunIndex) -> None:
        self._index = index
        self.rows: list[Row] = index.select("SELECT * FROM runs ORDER BY created DESC, name DESC")

    def facts(self) -> list[str]:
        """Names of what is known of every run besides metrics and settings."""
        return [*(row["name"] for row in self._index.select("PRAGMA table_info(runs)") if row["name"] not in HIDDEN), *ALIASES]

    def metrics(self) -> list[str]:
        """Names of all metrics that any run recorded."""
        return [row["key"] for row in self._index.select("SELECT DISTINCT key FROM metric_values ORDER BY key")]

    def settings(self) -> list[str]:
        """Dotted keys of all settings of any run."""
        return [row["key"] for row in self._index.select("SELECT DISTINCT key FROM config_values ORDER BY key")]

    def tags(self) -> dict[int, list[str]]:
        """The tags of every run that has any, by the number of its row."""
        tags: dict[int, list[str]] = {}
        for row in self._index.select("SELECT run_id, tag FROM run_tags ORDER BY tag"):
            tags.setdefault(row["run_id"], []).append(row["tag"])
        return tags

    def value(self, key: str) -> ValueOf:
        """The way from a row to the value of that name.

        Raises:
            UsageError: if there is none, or the end of a setting's key fits several.
        """
        fact = ALIASES.get(key, key)
        if fact in self.facts():
            return lambda row: row[fact]
        metrics, (stem, _, part) = self.metrics(), key.rpartition(".")
        if key in metrics:
            return self._by_run("SELECT run_id, last FROM metric_values WHERE key = ?", key)
        if stem in metrics and part in PARTS:
            return self._by_run(f'SELECT run_id, "{part}" FROM metric_values WHERE key = ?', stem)
        return self._by_run("SELECT run_id, value FROM config_values WHERE key = ?", self._setting(key))

    def _setting(self, key: str) -> str:
        settings = self.settings()
        fitting = [each for each in settings if each == key] or [each for each in settings if each.endswith(f".{key}")]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            shown = ", ".join(map(inert, fitting[:6])) + (" ..." if len(fitting) > 6 else "")
            raise UsageError(f"{key!r} fits {len(fitting)} settings: {shown}. Type more of the key.")
        known = [*self.facts(), *self.metrics(), *settings, *(each.rpartition(".")[2] for each in settings)]
        hint = (
            did_you_mean(key, known)
            or f"Facts: {', '.join(self.facts())}. Metrics: {', '.join(map(inert, self.metrics()[:12])) or 'none'}."
        )
        raise UsageError(f"No run has a value {key!r}. {hint} Settings go by their dotted keys in config.yaml.")

    def _by_run(self, query: str, key: str) -> ValueOf:
        values = dict(tuple(row.values()) for row in self._index.select(query, (key,)))
        return lambda row: values.get(row["id"])

    def holds(self, condition: Condition) -> Callable[[Row], bool]:
        """Whether a run meets a condition; one without the value meets none but ``!=``."""
        value_of, compare = self.value(condition.key), OPERATORS[condition.operator]
        is_time = ALIASES.get(condition.key, condition.key) in TIMES

        def meets(row: Row) -> bool:
            value = value_of(row)
            if value is None:
                return condition.operator == "!="
            if condition.operator == "~":
                return compare(value, condition.wanted)
            return compare(*comparable(value, condition.wanted, is_time=is_time))

        return meets

    def ordered(self, rows: Sequence[Row], key: str | None, *, reverse: bool) -> list[Row]:
        """The rows by a value, lowest first, those without one last; the newest first without a key."""
        if key is None:
            return list(reversed(rows)) if reverse else list(rows)
        value_of = self.value(key)
        with_value = [row for row in rows if value_of(row) is not None]
        with_value.sort(key=lambda row: in_order(value_of(row)), reverse=reverse)
        return [*with_value, *(row for row in rows if value_of(row) is None)]


def comparable(value: Any, wanted: str, *, is_time: bool = False) -> tuple[Any, Any]:
    """A value and what was typed as two things of one kind: numbers if both are, else texts.

    >>> comparable(0.5, "0.25"), comparable("a", "1"), comparable(1, "true")
    ((0.5, 0.25), ('a', '1'), ('1', 'true'))
    """
    if is_time and (told := _time(wanted)) is not None:
        return float(value), told
    left, right = number(value), number(wanted)
    if left == left and right == right:  # neither is nan
        return left, right
    return str(value), wanted


def _time(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def in_order(value: Any) -> tuple[int, float, str]:
    """What sorts numbers before texts, each in their own order."""
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))
