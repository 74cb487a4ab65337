"""Being told just before somebody's method is called, where no hook tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def call_before(owner: Any, name: str, told: Callable[..., Any]) -> Callable[[], None]:
    """Call ``told`` with the arguments of a method just before it, on this one object; gives back how to end that.

    Others may do the same with the same method, and end it in any order.
    """
    method, own, listens = getattr(owner, name, None), vars(owner).get(name), [True]
    if method is None:
        return lambda: None

    def outer(*args: Any, **kwargs: Any) -> Any:
        if listens:
            told(*args, **kwargs)
        return method(*args, **kwargs)

    def end() -> None:
        listens.clear()
        if vars(owner).get(name) is outer:
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)

    setattr(owner, name, outer)
    return end
