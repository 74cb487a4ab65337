"""Sizes for people."""

from __future__ import annotations


def mib(size: float) -> str:
    """A number of bytes in the unit that suits it.

    >>> mib(3 * 2**20), mib(5000), mib(3 * 2**30)
    ('3.0 MiB', '4.9 KiB', '3.0 GiB')
    """
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
