"""Canaries: values that must never be found again, and a search for them in every file, in every spelling."""

from __future__ import annotations

import base64
import gzip
import html
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus


def spellings(value: str) -> set[bytes]:
    """A value as it is, and as JSON, Python, YAML, a URL, HTML and base64 (at each of its three positions) write it."""
    raw = value.encode()
    texts = {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1], value.replace("'", "''")}
    texts |= {quote(value), quote(value, safe=""), quote_plus(value), quote(value, safe="").lower(), html.escape(value)}
    found = {text.encode() for text in texts} | {value.encode("utf-16-le"), value.encode("latin-1", "ignore")}
    for position in range(3):
        # What stands before and behind changes the letters at the edges: only those in the middle are certain.
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(b"x" * position + raw)[4 if position else 0 : -4])
    return {each for each in found if len(each) >= 6}


def contents(name: str, data: bytes, depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """A file's bytes, and what is packed inside, by name."""
    yield name, data
    if depth > 4:
        return
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            for inner in packed.namelist():
                yield from contents(f"{name}/{inner}", packed.read(inner), depth + 1)
    if data[:2] == b"\x1f\x8b":
        yield from contents(f"{name} (gunzipped)", gzip.decompress(data), depth + 1)
    if data[:1] == b"\x78":
        try:
            yield from contents(f"{name} (inflated)", zlib.decompress(data), depth + 1)
        except zlib.error:
            return


def leaks(folder: Path, canaries: Mapping[str, str], without: tuple[Path, ...] = ()) -> list[str]:
    """File, canary and surroundings of everything that got out below a folder; inputs of the test are left out."""
    sought = {name: spellings(value) for name, value in canaries.items()}
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_symlink() or any(path == other or other in path.parents for other in without):
            continue
        for name, data in contents(str(path.relative_to(folder)), path.read_bytes()):
            for canary, spelt in sought.items():
                for each in spelt:
                    if (place := data.find(each)) >= 0:
                        found.append(f"{name}: the {canary} canary in {data[max(place - 60, 0) : place + 60]!r}")
                        break
    return found
