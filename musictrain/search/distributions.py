"""What a value is drawn from, as people write it: ``loguniform(1e-4, 1e-2)``, ``choice(2, 4, 6)``, ``norm(0, 1, digits=3)``.

Conventions:

- Arguments are what one would say: ``uniform(low, high)`` ends at ``high`` and ``truncnorm(mean, sd, low, high)`` is cut at values, where
  scipy takes a width and numbers of standard deviations. ``randint(low, high)`` is scipy's: ``high`` itself is not drawn;
  ``integers(low, high)`` and ``logintegers(low, high)``, whose logarithm is even, include it.
- ``digits=n`` rounds what is drawn to so many significant digits.
- Numbers come from ``scipy.stats`` by a ``numpy.random.RandomState``, as scikit-learn's ``ParameterSampler`` asks for them, and are plain
  ``float`` and ``int``.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from musictrain.suggestions import did_you_mean

CHOICE = "choice"


@dataclass(frozen=True)
class Kind:
    """A kind of distribution.

    Args:
        names: of its arguments.
        frozen: scipy's, of those arguments.
        check: what is wrong with them, an empty text for nothing.
        whole: whether whole numbers are drawn.
        logarithmic: whether it is even on a logarithmic axis.
    """

    names: tuple[str, ...]
    frozen: Callable[..., Any]
    check: Callable[..., str]
    whole: bool = False
    logarithmic: bool = False


def _ordered(low: float, high: float) -> str:
    return "" if low < high else f"the lower end {low:g} is not below the upper end {high:g}"


def _above_zero(low: float, high: float) -> str:
    return _ordered(low, high) or ("" if low > 0 else f"a logarithm needs numbers above 0, got {low:g}")


def _whole(low: float, high: float) -> str:
    return _ordered(low, high) or ("" if low == int(low) and high == int(high) else "whole numbers are needed")


def _whole_above_zero(low: float, high: float) -> str:
    return _above_zero(low, high) or _whole(low, high)


def _spread(mean: float, sd: float, *_: float) -> str:
    return "" if sd > 0 else f"the standard deviation is above 0, got {sd:g}"


def _cut(mean: float, sd: float, low: float, high: float) -> str:
    return _spread(mean, sd) or _ordered(low, high)


def _both_above_zero(a: float, b: float) -> str:
    return "" if a > 0 and b > 0 else f"both numbers are above 0, got {a:g} and {b:g}"


def _stats() -> Any:
    import scipy.stats

    return scipy.stats


KINDS: Mapping[str, Kind] = {
    "uniform": Kind(("low", "high"), lambda low, high: _stats().uniform(low, high - low), _ordered),
    "loguniform": Kind(("low", "high"), lambda low, high: _stats().loguniform(low, high), _above_zero, logarithmic=True),
    "randint": Kind(("low", "high"), lambda low, high: _stats().randint(low, high), _whole, whole=True),
    "integers": Kind(("low", "high"), lambda low, high: _stats().randint(low, high + 1), _whole, whole=True),
    # The floor of an even logarithm up to high + 1.
    "logintegers": Kind(
        ("low", "high"), lambda low, high: _stats().loguniform(low, high + 1), _whole_above_zero, whole=True, logarithmic=True
    ),
    "norm": Kind(("mean", "sd"), lambda mean, sd: _stats().norm(mean, sd), _spread),
    "lognorm": Kind(
        ("median", "sd"), lambda median, sd: _stats().lognorm(sd, scale=median), lambda a, b: _both_above_zero(a, b), logarithmic=True
    ),
    "truncnorm": Kind(
        ("mean", "sd", "low", "high"),
        lambda mean, sd, low, high: _stats().truncnorm((low - mean) / sd, (high - mean) / sd, mean, sd),
        _cut,
    ),
    "beta": Kind(("a", "b"), lambda a, b: _stats().beta(a, b), _both_above_zero),
}


@dataclass(frozen=True, eq=False)
class Distribution:
    """What values are drawn from, with ``rvs`` as scikit-learn asks for it.

    Args:
        name: one of ``KINDS``, or ``choice``.
        arguments: numbers in the order of the kind's names; of a choice, what there is to choose.
        digits: significant digits, None for all.
    """

    name: str
    arguments: tuple[Any, ...]
    digits: int | None = None

    def __str__(self) -> str:
        words = [_shown(each) for each in self.arguments] + ([f"digits={self.digits}"] if self.digits is not None else [])
        return f"{self.name}({', '.join(words)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Distribution) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def is_choice(self) -> bool:
        """Whether it is one of some values."""
        return self.name == CHOICE

    @property
    def logarithmic(self) -> bool:
        """Whether a logarithmic axis shows it evenly."""
        return not self.is_choice and KINDS[self.name].logarithmic

    def told(self) -> Any:
        """As a plain value: a list of what there is to choose, else its text."""
        return list(self.arguments) if self.is_choice else str(self)

    @cached_property
    def _frozen(self) -> Any:
        return KINDS[self.name].frozen(*self.arguments)

    def rvs(self, size: Any = None, random_state: Any = None) -> Any:
        """One value, drawn by a ``numpy.random.RandomState``; ``size`` is there because scipy has it, and not used."""
        if self.is_choice:
            return self.arguments[int(random_state.randint(len(self.arguments)))]
        drawn = float(self._frozen.rvs(random_state=random_state))
        value = rounded(drawn, self.digits) if self.digits is not None else drawn
        if not KINDS[self.name].whole:
            return value
        # A sum of logarithms may end a hair above the upper end.
        return min(math.floor(value), self.arguments[1]) if self.name == "logintegers" else int(value)


def rounded(value: float, digits: int) -> float:
    """To so many significant digits.

    >>> rounded(0.0012345, 2), rounded(123456.0, 2)
    (0.0012, 120000.0)
    """
    return float(f"{value:.{digits}g}")


def choice(values: Any) -> Distribution:
    """One of some values, each as often as the others.

    Raises:
        ValueError: if there are none.
    """
    given = tuple(values)
    if not given:
        raise ValueError("There is nothing to choose: a list of values needs at least one.")
    return Distribution(CHOICE, given)


def read_distribution(told: Any) -> Distribution:
    """What a list or a text such as ``loguniform(1e-4, 1e-2)`` says.

    Raises:
        ValueError: for what is neither, a name that is not known, or arguments that cannot be meant.
    """
    if isinstance(told, list | tuple):
        return choice(told)
    if not isinstance(told, str):
        raise ValueError(f"Expected a list of values or a distribution such as loguniform(1e-4, 1e-2), got {told!r}.")
    call = _call(told)
    if call is None:
        raise ValueError(
            f"{told!r} is neither a list of values nor a distribution: write [{told}] for this value alone, or one of {', '.join(KINDS)} "
            f"with its arguments, such as loguniform(1e-4, 1e-2)."
        )
    name, arguments, keywords = call
    if name == CHOICE and not keywords:
        return choice(arguments)
    if name not in KINDS:
        raise ValueError(f"There is no distribution {name!r}. {did_you_mean(name, [*KINDS, CHOICE]) or _known()}")
    return _made(name, arguments, keywords, told)


def _made(name: str, arguments: list[Any], keywords: dict[str, Any], told: str) -> Distribution:
    kind, digits = KINDS[name], keywords.pop("digits", None)
    usage = f"{name}({', '.join(kind.names)})"
    numbers = dict(zip(kind.names, arguments, strict=False))
    unknown = next((key for key in keywords if key not in kind.names or key in numbers), None)
    if unknown is not None:
        raise ValueError(f"{told!r}: {unknown!r} is no argument that is left. It is {usage}, and digits=n if you like.")
    numbers |= keywords
    if len(arguments) > len(kind.names) or set(numbers) != set(kind.names):
        raise ValueError(f"{told!r}: it is {usage}, got {len(arguments) + len(keywords)} arguments.")
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{told!r}: {key} is a number, got {value!r}.")
    if digits is not None and (isinstance(digits, bool) or not isinstance(digits, int) or not 1 <= digits <= 15):
        raise ValueError(f"{told!r}: digits is a whole number from 1 to 15, got {digits!r}.")
    ordered = tuple(numbers[key] for key in kind.names)
    if fault := kind.check(*ordered):
        raise ValueError(f"{told!r}: {fault}.")
    return Distribution(name, tuple(int(each) for each in ordered) if kind.whole else ordered, digits)


def _call(text: str) -> tuple[str, list[Any], dict[str, Any]] | None:
    """The name and the arguments of what is written like a call of plain values; None if it is not written like that."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return None
    try:
        arguments = [_plain(each) for each in node.args]
        keywords = {str(each.arg): _plain(each.value) for each in node.keywords}
    except (ValueError, TypeError):
        return None
    return node.func.id, arguments, keywords


def _plain(node: ast.expr) -> Any:
    """A literal; a bare word is a text, as in YAML."""
    return {"true": True, "false": False, "null": None}.get(node.id, node.id) if isinstance(node, ast.Name) else ast.literal_eval(node)


def _known() -> str:
    usages = [f"{name}({', '.join(kind.names)})" for name, kind in KINDS.items()]
    return f"There are: {', '.join(usages)}, and lists of values."


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else f"{value}"
