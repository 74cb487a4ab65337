"""Names for runs: when, what, and two words that people can say to each other."""

from __future__ import annotations

import random
import re
from datetime import datetime


def _words(text: str) -> list[str]:
    return text.split()


MANNERS = _words("""
    agile airy amber ardent blithe bold brave bright brisk calm candid clear copper crisp dorian dotted eager early earnest elastic
    fleet fluent fond frank gentle gilded glad golden graceful grave hidden humble hushed idle jovial keen late leaping lilting
    limpid lively lofty lucid lydian lyric mellow merry mild modal modest muted nimble noble patient plain plucked pensive quaint
    quick quiet restless ringing rising rustic serene silken silver simple singing slow soaring soft solemn sonorous steady stately
    still stirring subtle sunny supple swaying sweet swift tender tranquil tuneful velvet vivid wandering warm winding wistful woven
""")

PIECES = _words("""
    air allemande anthem arabesque arietta aubade ballad barcarole bourree burlesque cadence cadenza canon cantata canzona caprice
    carol cavatina chaconne chorale clarinet clavier coda concerto consort cornet courante descant dirge divertimento duet elegy
    etude fantasia farandole fiddle finale flute forlana fugue galliard gavotte gigue harp hornpipe hymn impromptu intermezzo
    interlude invention jig lament loure lullaby lute madrigal magnificat march mazurka melody minuet motet musette nocturne oboe
    octet organ ostinato overture partita passacaglia pastorale pavane polonaise prelude psaltery quartet quintet recorder reel
    refrain requiem reverie rhapsody ricercar rigaudon romance rondo sarabande scherzo serenade sextet sicilienne sinfonia sonata
    sonatina spinet strathspey suite tarantella theorbo toccata trio villanella viola viol waltz
""")

STAMP = "%Y-%m-%d_%H%M%S"
LONGEST_NAME = 60


def new_run_name(name: str, *, now: datetime | None = None, words: random.Random | None = None) -> str:
    """A name such as ``2025-03-21_143055-chorales-gentle-fugue``; names sort by the time they were given.

    Args:
        name: what is trained; anything that does not belong in a file name becomes a hyphen.
        now: local time, the clock's if left out.
        words: where the two words come from; by default the operating system, so that no seed repeats or shifts them.

    Raises:
        ValueError: if nothing of ``name`` is left.
    """
    words = words or random.SystemRandom()
    stamp = (now or datetime.now()).strftime(STAMP)
    return f"{stamp}-{file_name(name)}-{words.choice(MANNERS)}-{words.choice(PIECES)}"


def file_name(text: str) -> str:
    """``text`` as part of a file name: letters, digits, dots and underscores stay, all else becomes single hyphens.

    >>> file_name("My run / take 2")
    'My-run-take-2'

    Raises:
        ValueError: if nothing is left.
    """
    cleaned = re.sub(r"[^\w.]+", "-", text).strip("-._")[:LONGEST_NAME].rstrip("-._")
    if not cleaned:
        raise ValueError(f"A run's name needs at least one letter or digit, got {text!r}.")
    return cleaned
