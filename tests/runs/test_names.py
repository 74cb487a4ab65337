"""Names sort by time, stand in file names and can be said aloud."""

from __future__ import annotations

import random
from datetime import datetime

import pytest

from musictrain.runs import new_run_name
from musictrain.runs.names import MANNERS, PIECES, file_name


def test_a_name_says_when_what_and_two_words() -> None:
    name = new_run_name("my chorales/1", now=datetime(2025, 3, 21, 14, 30, 55), words=random.Random(0))
    stamp, what, one, two = "2025-03-21_143055", "my-chorales-1", *name.split("-")[-2:]
    assert name == f"{stamp}-{what}-{one}-{two}"
    assert one in MANNERS
    assert two in PIECES


def test_names_do_not_follow_the_global_seed() -> None:
    def draw() -> list[str]:
        random.seed(1)
        return [new_run_name("x", now=datetime(2025, 1, 1)) for _ in range(8)]

    assert draw() != draw()


def test_words_are_distinct_plain_and_many() -> None:
    for words in (MANNERS, PIECES):
        assert len(words) == len(set(words)) >= 90
        assert all(word.isascii() and word.isalpha() and word.islower() for word in words)


@pytest.mark.parametrize("text", ["", "///", "..", " - "])
def test_a_name_without_a_letter_or_digit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="at least one letter or digit"):
        file_name(text)


@pytest.mark.parametrize("text", ["../../etc", "a\0b", "x" * 500, "-rf", ".hidden", "a\nb"])
def test_a_name_never_leaves_its_folder(text: str) -> None:
    cleaned = file_name(text)
    assert "/" not in cleaned
    assert "\0" not in cleaned
    assert cleaned[0] not in ".-"
    assert len(cleaned) <= 60
