"""What every point meets: comparisons of its values, such as ``network.width % network.heads == 0``.

The language: dotted names, numbers, texts in quotes, ``true false null``, ``+ - * / // %`` of numbers, comparisons (``in`` a list too),
``and or not``, and parentheses. Nothing else is understood, and nothing is ever run as Python.

A name stands for the point's value, else for the configuration's. Where neither has one, as of a part of the space that is not there, the
constraint says nothing and is met.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from musictrain.search.definition import SearchError

LONGEST = 1000
ARITHMETIC: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
COMPARISONS: Mapping[type, Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}
WORDS = {"true": True, "false": False, "null": None}
LANGUAGE = "It may hold keys, numbers, texts in quotes, comparisons, and, or, not, and + - * / // % of numbers."

Value = Callable[[Mapping[str, Any]], Any]


class MissingValueError(LookupError):
    """A name that stands for nothing here."""


@dataclass(frozen=True)
class Constraint:
    """One comparison, ready to be asked.

    Args:
        text: as it was written.
        names: of keys in it, in order, each once.
        value: what it comes to, of values by key.
    """

    text: str
    names: tuple[str, ...]
    value: Value

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether values meet it.

        >>> read_constraint("width % heads == 0").holds({"width": 64, "heads": 4})
        True

        Raises:
            SearchError: if it cannot be worked out, such as a text divided by a number.
        """
        try:
            found = self.value(values)
        except MissingValueError:
            return True
        except (TypeError, ArithmeticError, ValueError) as error:
            shown = ", ".join(f"{name}={values.get(name)!r}" for name in self.names)
            raise SearchError(f"The constraint {self.text!r} cannot be worked out where {shown}: {error}.") from error
        if not isinstance(found, bool):
            raise SearchError(f"The constraint {self.text!r} comes to {found!r}, which is neither true nor false. Compare it: ... == 0.")
        return found

    def renamed(self, names: Mapping[str, str]) -> Constraint:
        """The same with other names, such as keys in full."""
        tree = ast.parse(self.text.strip(), mode="eval")
        full = _Renaming(names).visit(tree)
        return read_constraint(ast.unparse(full))


def read_constraint(text: Any) -> Constraint:
    """What a constraint says.

    Raises:
        SearchError: for anything that is not in its language.
    """
    if not isinstance(text, str) or not text.strip() or len(text) > LONGEST:
        raise SearchError(f"A constraint is a text of at most {LONGEST:,} characters such as 'width % heads == 0', got {str(text)[:80]!r}.")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        names: dict[str, None] = {}
        value = _compiled(tree.body, names)
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise SearchError(f"The constraint {text!r} cannot be read: {getattr(error, 'msg', 'too deep')}. {LANGUAGE}") from error
    except ValueError as error:
        raise SearchError(f"The constraint {text!r} {error}. {LANGUAGE}") from error
    if not names:
        raise SearchError(f"The constraint {text!r} names no key, so that it is met by all points or by none.")
    return Constraint(text, tuple(names), value)


def dotted_name(node: ast.expr) -> str | None:
    """``a.b.c`` of a name or an attribute of one; None for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


class _Renaming(ast.NodeTransformer):
    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def visit(self, node: ast.AST) -> Any:
        name = dotted_name(node) if isinstance(node, ast.Name | ast.Attribute) else None
        if name is None:
            return self.generic_visit(node)
        return ast.parse(self.names.get(name, name), mode="eval").body


def _compiled(node: ast.expr, names: dict[str, None]) -> Value:
    """A function of the values; names are added to ``names``."""
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str | None):
        constant = node.value
        return lambda _: constant
    if (name := dotted_name(node)) is not None:
        return _named(name, names)
    if isinstance(node, ast.List | ast.Tuple):
        parts = [_compiled(each, names) for each in node.elts]
        return lambda values: [part(values) for part in parts]
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        return _reckoned(ARITHMETIC[type(node.op)], _compiled(node.left, names), _compiled(node.right, names))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd | ast.Not):
        return _unary(node.op, _compiled(node.operand, names))
    if isinstance(node, ast.BoolOp):
        return _joined(isinstance(node.op, ast.And), [_compiled(each, names) for each in node.values])
    if isinstance(node, ast.Compare) and all(type(each) in COMPARISONS for each in node.ops):
        return _compared(node, names)
    raise ValueError(f"has {ast.unparse(node)!r} in it, which is not understood")


def _named(name: str, names: dict[str, None]) -> Value:
    if name in WORDS:
        word = WORDS[name]
        return lambda _: word
    names[name] = None

    def value(values: Mapping[str, Any]) -> Any:
        if name not in values:
            raise MissingValueError(name)
        return values[name]

    return value


def _reckoned(operation: Callable[[Any, Any], Any], left: Value, right: Value) -> Value:
    return lambda values: operation(_number(left(values)), _number(right(values)))


def _number(value: Any) -> int | float:
    # A text times a number would be a text of any length.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value


def _unary(kind: ast.unaryop, operand: Value) -> Value:
    if isinstance(kind, ast.Not):
        return lambda values: not _truth(operand(values))
    sign = -1 if isinstance(kind, ast.USub) else 1
    return lambda values: sign * _number(operand(values))


def _joined(all_of_them: bool, parts: list[Value]) -> Value:
    if all_of_them:
        return lambda values: all(_truth(part(values)) for part in parts)
    return lambda values: any(_truth(part(values)) for part in parts)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _compared(node: ast.Compare, names: dict[str, None]) -> Value:
    parts = [_compiled(each, names) for each in (node.left, *node.comparators)]
    tests = [COMPARISONS[type(each)] for each in node.ops]

    def value(values: Mapping[str, Any]) -> bool:
        found = [part(values) for part in parts]
        return all(bool(test(found[place], found[place + 1])) for place, test in enumerate(tests))

    return value
