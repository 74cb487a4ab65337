"""Shards on several cores, in plain child processes: ``python -m musictrain.data.token_workers``.

Not ``multiprocessing``: where it spawns, it imports the caller's script again, and a script without a ``__main__`` guard would start
a second training. A child takes the pickled tokenizer and then, again and again, pieces and the path of their shard.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from musictrain.data.reading import usable_cpus
from musictrain.data.token_shards import HasNotes, encode_shard, read_shard, shard_path, write_shard
from musictrain.data.tokenizers.protocol import Tokenizer

log = logging.getLogger(__name__)

DONE = b"."
WORTH_STARTING = 4  # shards: a child takes about two seconds to import the tokenizers


def make_shards(
    pieces: Sequence[HasNotes], ranges: Sequence[range], tokenizer: Tokenizer, folder: Path, workers: int | None = None
) -> Iterator[range]:
    """Make every shard that is not on disk yet; yields the range of each that is.

    Args:
        pieces: of the whole corpus.
        ranges: which pieces make a shard together.
        tokenizer: what makes token ids of notes; sent to other processes by pickle, or else the work is done in this one.
        folder: where the shards lie.
        workers: processes, never more than there are shards to make; 1 works in this one. None means one for each CPU, if there is
            enough to do to be worth starting them.
    """
    missing = [numbers for numbers in ranges if read_shard(shard_path(folder, numbers)) is None]
    yield from (numbers for numbers in ranges if numbers not in missing)
    workers = min(workers or (usable_cpus() if len(missing) >= WORTH_STARTING else 1), len(missing))
    if workers > 1:
        try:
            for numbers in _make_in_children(pieces, missing, tokenizer, folder, workers):
                missing = [other for other in missing if other != numbers]
                yield numbers
        except (OSError, EOFError, pickle.PicklingError, AttributeError, TypeError) as error:
            log.warning("Tokenizing goes on in one process: a worker could not do it (%s).", error)
    for numbers in missing:
        write_shard(encode_shard(((number, pieces[number]) for number in numbers), tokenizer), shard_path(folder, numbers))
        yield numbers


def _make_in_children(
    pieces: Sequence[HasNotes], missing: Sequence[range], tokenizer: Tokenizer, folder: Path, workers: int
) -> Iterator[range]:
    hello = pickle.dumps(tokenizer)
    children = [_start_child() for _ in range(workers)]
    idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
    threads = ThreadPoolExecutor(workers)

    def make(numbers: range) -> range:
        child = idle.get()
        try:
            _ask(child, pickle.dumps(([(number, pieces[number]) for number in numbers], shard_path(folder, numbers))))
        finally:
            idle.put(child)  # A dead one too, or the next thread would wait for ever.
        return numbers

    try:
        for child in children:
            _ask(child, hello)
            idle.put(child)
        yield from (made.result() for made in as_completed([threads.submit(make, numbers) for numbers in missing]))
    finally:
        for child in children:
            child.kill()
            child.wait()
        threads.shutdown(wait=True, cancel_futures=True)


def _start_child() -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[2]), *sys.path]))}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-m", "musictrain.data.token_workers"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _ask(child: subprocess.Popen[bytes], message: bytes) -> None:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(message)
    child.stdin.flush()
    if (answer := child.stdout.read(len(DONE))) != DONE:
        raise EOFError((answer + child.stdout.read()).decode() or f"it ended with exit status {child.wait()}")


def main() -> None:
    """Make shards until standard input ends."""
    # What a library prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    try:
        tokenizer = pickle.load(sys.stdin.buffer)
    except Exception as error:
        answers.write(f"{type(error).__name__}: {error}".encode())
        return
    answers.write(DONE)
    while True:
        try:
            numbered, path = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        write_shard(encode_shard(numbered, tokenizer), path)
        answers.write(DONE)


if __name__ == "__main__":
    main()
