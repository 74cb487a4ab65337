"""The process that reads score files, one at a time: ``python -m musictrain.data.reading_worker``.

It takes pickled Sources on its standard input and answers each with a pickled Reading, until the input ends. Whatever a parser prints
goes nowhere, and memory is limited, so that the worst a file can do is to end this process; ``reading`` then starts another.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import BinaryIO

from musictrain.data.source_reading import read_source

MEMORY_BYTES = 8_000_000_000
READY = "ready"


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit.
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _private_stdout() -> int:
    """Keep standard output for answers and point what others print, here and in child processes, to nowhere."""
    answers = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    return answers


def main() -> None:
    """Answer sources until standard input ends."""
    _limit_memory()
    questions = sys.stdin.buffer
    with os.fdopen(_private_stdout(), "wb") as answers:
        _answer(answers, READY)
        while True:
            try:
                source = pickle.load(questions)
            except EOFError:
                return
            _answer(answers, read_source(source))


def _answer(answers: BinaryIO, answer: object) -> None:
    pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
    answers.flush()


if __name__ == "__main__":
    main()
