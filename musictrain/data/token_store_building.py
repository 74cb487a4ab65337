"""Building a token store: found in the cache, or made from shards and published by one rename.

Nothing is locked. Two processes that build the same store share finished shards, each assembles in a folder of its own name, and the
second to rename finds the first's store and takes it. What an interrupted build finished is there for the next.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
import uuid
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from musictrain.data.reading_progress import reading_progress
from musictrain.data.splits import SPLITS
from musictrain.data.token_shards import PIECES_PER_SHARD, Shard, read_shard, shard_path, shard_ranges, token_dtype
from musictrain.data.token_store import COLUMNS, FORMAT, StoreError, TokenStore, digest_of, digest_of_meta
from musictrain.data.token_store_verified import verify_once
from musictrain.data.token_workers import make_shards
from musictrain.data.tokenizers.protocol import Tokenizer
from musictrain.runs.alerts import alert
from musictrain.runs.atomic import sync_folder

if TYPE_CHECKING:
    from musictrain.data.corpora import Corpus

log = logging.getLogger(__name__)

ATTEMPTS = 3


def open_or_build(
    corpus: Corpus,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    workers: int | None = None,
    progress: bool = True,
    pieces_per_shard: int = PIECES_PER_SHARD,
    verify: bool = False,
) -> TokenStore:
    """The token store of a corpus and a tokenizer, made if it is not there or not whole.

    Args:
        corpus: whose pieces to encode.
        tokenizer: what makes token ids of notes.
        folder: where stores lie; this one is in a sub-folder named by its key.
        workers: processes that encode; None means one for each CPU, if there is enough to do.
        progress: show how far it has come, on standard error.
        pieces_per_shard: how much work is done between two saves.
        verify: read every token of what is there, a third of a second for a hundred million, and make it again if one has changed; a
            large file that was found right and has not been written to since is not read again.

    Raises:
        ValueError: if the tokenizer refuses every piece; the message has the first reasons.
        OSError: if the folder cannot be written.
    """
    root = Path(folder).expanduser()
    key = store_key(corpus, tokenizer)
    for _ in range(ATTEMPTS):
        try:
            return _opened(root / key, verify)
        except StoreError as fault:
            if (root / key).exists():
                alert(log, f"{fault} It is built again.", kind="data", advice="Look at the disk, or at what else writes there.")
        # Whoever published the store meanwhile took the shards away: then it is there to be opened.
        try:
            _build(corpus, tokenizer, root, key, workers, progress, pieces_per_shard)
        except FileNotFoundError:
            _clear_up(root, key)
    return TokenStore.open(root / key)


def _opened(folder: Path, verify: bool) -> TokenStore:
    store = TokenStore.open(folder)
    if verify:
        verify_once(store)
    return store


def store_key(corpus: Corpus, tokenizer: Tokenizer) -> str:
    """What a store depends on, as 24 hex digits: the corpus, the tokenizer, the code of both it and the store, MidiTok and symusic."""
    parts = [str(FORMAT), corpus.fingerprint, tokenizer.fingerprint, _code_digest(tokenizer)]
    parts += [f"{package} {_version(package)}" for package in ("miditok", "symusic")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _code_digest(tokenizer: Tokenizer) -> str:
    here = Path(__file__).parent
    file = getattr(sys.modules[type(tokenizer).__module__], "__file__", None)
    own = {Path(file)} if file else set()
    digest = hashlib.sha256()
    for path in sorted({*(here / "tokenizers").glob("*.py"), here / "token_shards.py", here.parent / "notes.py", *own}):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _build(corpus: Corpus, tokenizer: Tokenizer, root: Path, key: str, workers: int | None, progress: bool, pieces_per_shard: int) -> None:
    shards = root / f".{key}.shards"
    shards.mkdir(parents=True, exist_ok=True)
    ranges = shard_ranges(len(corpus.pieces), pieces_per_shard)
    with reading_progress(f"{tokenizer.name} tokens of {corpus.name}", len(ranges), shown=progress and len(ranges) > 1) as advance:
        for _ in make_shards(corpus.pieces, ranges, tokenizer, shards, workers):
            advance()
    assembled = root / f".{key}.{uuid.uuid4().hex}.new"
    assembled.mkdir()
    try:
        _assemble(corpus, tokenizer, (_present(shard_path(shards, numbers)) for numbers in ranges), assembled)
        _publish(assembled, root / key)
    finally:
        shutil.rmtree(assembled, ignore_errors=True)
    _clear_up(root, key)


def _clear_up(root: Path, key: str) -> None:
    """Take away what builders of a store that is published have left; who is building it still finds the store instead."""
    if (root / key).exists():
        for left in (root / f".{key}.shards", *root.glob(f".{key}.*.new")):
            shutil.rmtree(left, ignore_errors=True)


def _present(path: Path) -> Shard:
    if (shard := read_shard(path)) is None:
        raise FileNotFoundError(path)
    return shard


def _assemble(corpus: Corpus, tokenizer: Tokenizer, shards: Iterator[Shard], folder: Path) -> None:
    columns: dict[str, list[Any]] = {name: [np.empty(0, np.int64)] for name in ("piece", "length", "num_notes", "num_beats")}
    rejected: list[tuple[str, str]] = []
    with (folder / "tokens.bin").open("wb") as file:
        for shard in shards:
            shard.tokens.tofile(file)
            rejected += [(str(corpus.pieces[number].source), reason) for number, reason in shard.rejected]
            for name, parts in columns.items():
                parts.append(getattr(shard, name))
        _sync(file)
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    pieces = [corpus.pieces[int(number)] for number in joined.pop("piece")]
    if not pieces:
        raise ValueError(_nothing_left(corpus, tokenizer, rejected))
    joined["split"] = np.array([SPLITS.index(piece.split) for piece in pieces])
    joined["offset"] = np.cumsum(joined["length"]) - joined["length"]
    names = {"names": [piece.name for piece in pieces], "sources": [str(piece.source) for piece in pieces], "rejected": rejected}
    _write_index(folder, corpus, tokenizer, {name: joined[name].astype(dtype) for name, dtype in COLUMNS.items()}, names)


def _nothing_left(corpus: Corpus, tokenizer: Tokenizer, rejected: Sequence[tuple[str, str]]) -> str:
    reasons = "".join(f"\n  {source}: {reason}" for source, reason in rejected[:3])
    return (
        f"{tokenizer.name} can hold none of the {len(corpus.pieces)} pieces of {corpus.name}: choose another tokenizer, or other music."
        + (f" The first reasons:{reasons}" if reasons else "")
    )


def _write_index(folder: Path, corpus: Corpus, tokenizer: Tokenizer, columns: dict[str, NDArray[Any]], names: dict[str, Any]) -> None:
    with (folder / "pieces.npz").open("wb") as file:
        np.savez(file, **cast(Any, columns))
        _sync(file)
    _write_json(folder / "names.json", names)
    files: dict[str, dict[str, Any]] = {
        path.name: {"size": path.stat().st_size, "sha256": digest_of(path)} for path in sorted(folder.iterdir())
    }
    # Of the content alone: neither names nor folders of one machine, nor how a version of numpy lays out its files.
    content: list[str] = [tokenizer.fingerprint, files["tokens.bin"]["sha256"], *(columns[name].tobytes().hex() for name in COLUMNS)]
    meta = {
        "format": FORMAT,
        "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint},
        "tokenizer": {"name": tokenizer.name, "fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size},
        "dtype": token_dtype(tokenizer.vocab_size).str,
        "fingerprint": hashlib.sha256("\n".join(content).encode()).hexdigest()[:16],
        "files": files,
    }
    _write_json(folder / "meta.json", {**meta, "digest": digest_of_meta(meta)})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with path.open("wb") as file:
        file.write(json.dumps(content).encode())
        _sync(file)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _publish(assembled: Path, target: Path) -> None:
    """Rename the assembled folder to its place. What stands there already stays if it is whole, and is removed if not."""
    if target.exists():
        try:
            _opened(target, verify=True)
        except StoreError:
            aside = assembled.with_suffix(".broken.new")
            target.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            return
    try:
        assembled.rename(target)
    except OSError:
        # Somebody published between the look and the rename: theirs is as good.
        if not target.exists():
            raise
    sync_folder(target.parent)
