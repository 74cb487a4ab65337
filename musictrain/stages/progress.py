"""One estimate over all stages: what is left of the one that trains, and what those to come will take by its pace.

Conventions: a stage to come takes what it took when it was trained before, else as long per token as the one that trains now or was
trained last. That is a guess, the networks may differ: between half and twice as long. A stage without steps or minutes, ended by its
rule alone, is not known; then nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from musictrain.runs.eta import TimeLeft

GUESS = 2.0


@dataclass(frozen=True)
class Course:
    """How far a stage has come.

    Args:
        done: whether it has ended.
        step: optimizer steps done.
        steps: in all, None without such a limit.
        limit_seconds: of training, None without such a limit.
        elapsed_seconds: of training.
        left: by its own estimate, None if it has none yet.
        tokens_per_step: of its batches, for the pace of others.
        earlier_seconds: that it took when it was trained before, None if it never was.
    """

    done: bool = False
    step: int = 0
    steps: int | None = None
    limit_seconds: float | None = None
    elapsed_seconds: float = 0.0
    left: TimeLeft | None = None
    tokens_per_step: float = 1.0
    earlier_seconds: float | None = None


def left_of_all(courses: Sequence[Course]) -> TimeLeft | None:
    """Until the last stage ends; None if nobody can tell.

    >>> left_of_all([Course(done=True, step=10, steps=10, elapsed_seconds=20.0), Course(steps=30)])
    TimeLeft(seconds=60.0, low=30.0, high=120.0)
    """
    pace = _pace(courses)
    parts = [_left(course, pace) for course in courses if not course.done]
    if any(part is None for part in parts):
        return None
    known = [part for part in parts if part is not None]
    return TimeLeft(*(sum(getattr(part, name) for part in known) for name in ("seconds", "low", "high")))


def share_of_all(courses: Sequence[Course]) -> float | None:
    """What part of all the time is over, in [0, 1]; None if nobody can tell."""
    left = left_of_all(courses)
    spent = sum(course.elapsed_seconds for course in courses)
    return None if left is None or not spent + left.seconds else spent / (spent + left.seconds)


def _pace(courses: Sequence[Course]) -> float | None:
    """Seconds of a token in the stage that was trained last."""
    trained = [course for course in courses if course.step and course.elapsed_seconds]
    return trained[-1].elapsed_seconds / (trained[-1].step * trained[-1].tokens_per_step) if trained else None


def _left(course: Course, pace: float | None) -> TimeLeft | None:
    if course.left is not None:
        return course.left
    seconds = [] if course.limit_seconds is None else [max(course.limit_seconds - course.elapsed_seconds, 0.0)]
    if course.earlier_seconds is not None:
        return _guessed(min([*seconds, max(course.earlier_seconds - course.elapsed_seconds, 0.0)]))
    if course.steps is not None and pace is not None:
        seconds.append(max(course.steps - course.step, 0) * course.tokens_per_step * pace)
    elif course.limit_seconds is None:
        return None
    return _guessed(min(seconds))


def _guessed(seconds: float) -> TimeLeft:
    return TimeLeft(seconds, seconds / GUESS, seconds * GUESS)
