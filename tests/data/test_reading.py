"""Files are read in order by child processes; a crash, a hang or an answer that is none costs one file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from musictrain.data import reading
from musictrain.data.reading import read_in_order
from musictrain.data.scores import write_midi
from musictrain.data.source_reading import from_high_to_low, read_source
from musictrain.data.sources import Source
from musictrain.notes import Notes

# A worker that does what the name of the file says.
ACTOR = """
import os, pickle, signal, sys, time
from musictrain.data.source_reading import Reading
pickle.dump("ready", sys.stdout.buffer); sys.stdout.flush()
while True:
    try:
        source = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    if source.path == "crash": os.kill(os.getpid(), signal.SIGSEGV)
    if source.path == "leave": os._exit(7)
    if source.path == "hang": time.sleep(600)
    pickle.dump(Reading([], [(source.path, "read")]), sys.stdout.buffer); sys.stdout.flush()
"""


@pytest.fixture
def actors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "WORKER_COMMAND", (sys.executable, "-c", ACTOR))


def outcomes(names: list[str], workers: int, seconds: float = 300.0) -> list[tuple[str, str]]:
    sources = [Source(name, name) for name in names]
    return [rejection for each in read_in_order(sources, workers=workers, seconds_per_file=seconds) for rejection in each.rejected]


@pytest.mark.usefixtures("actors")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_crash_costs_one_file_and_keeps_the_order(workers: int) -> None:
    names = ["a", "crash", "b", "leave", "c", "d"]
    found = outcomes(names, workers)
    assert [name for name, _ in found] == names
    reasons = dict(found)
    assert reasons["crash"] == "reading it ended the process (exit status -11)"
    assert reasons["leave"] == "reading it ended the process (exit status 7)"
    assert [reasons[name] for name in "abcd"] == ["read"] * 4


@pytest.mark.usefixtures("actors")
def test_a_hang_costs_one_file() -> None:
    assert outcomes(["hang", "b"], 1, seconds=10.0) == [("hang", "takes longer than 10 seconds to read"), ("b", "read")]


@pytest.mark.usefixtures("actors")
def test_whoever_stops_early_is_not_kept_waiting() -> None:
    readings = read_in_order([Source(name, name) for name in ["a", "hang", "hang", "hang"]], workers=2)
    assert next(iter(readings)).rejected == [("a", "read")]
    readings.close()  # type: ignore[attr-defined]


def test_workers_that_cannot_start_are_an_error_and_not_a_thousand_rejections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "WORKER_COMMAND", (sys.executable, "-c", "raise SystemExit(1)"))
    with pytest.raises(RuntimeError, match="workers=0 reads without one"):
        outcomes(["a", "b"], 2)


def test_a_negative_number_of_workers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"workers=-1, expected 0"):
        read_in_order([], workers=-1)


def test_child_processes_read_what_this_process_reads(tmp_path: Path) -> None:
    for number in range(3):
        write_midi(Notes.from_rows([(0, 1, 60 + number)]), tmp_path / f"{number}.mid")
    (tmp_path / "3.abc").write_text("X:1\nL:1/4\nK:C\nCDEF|\n")
    (tmp_path / "4.mid").write_text("broken")
    sources = [Source(str(path), path.name) for path in sorted(tmp_path.iterdir())]
    here, there = list(read_in_order(sources, workers=0)), list(read_in_order(sources, workers=2))
    for one, other in zip(here, there, strict=True):
        assert [piece.title for piece in one.pieces] == [piece.title for piece in other.pieces]
        assert all(a.notes.same_notes(b.notes) for a, b in zip(one.pieces, other.pieces, strict=True))
        assert one.rejected == other.rejected
    assert here[4].rejected == [("4.mid", "not a MIDI file: it does not begin with MThd")]


def test_voices_are_numbered_from_high_to_low() -> None:
    notes = Notes.from_rows([(0, 1, 40), (0, 1, 70), (1, 1, 50), (1, 1, 50)], track=[5, 2, 5, 9], program=[1, 2, 1, 3])
    ordered = from_high_to_low(notes)
    assert sorted(zip(ordered.track.tolist(), ordered.pitch.tolist(), strict=True)) == [(0, 70), (1, 50), (2, 40), (2, 50)]
    assert set(ordered.program.tolist()) == {0}


def test_a_score_with_another_number_of_voices_is_rejected(tmp_path: Path) -> None:
    parts = '<score-part id="A"/><score-part id="B"/>'
    (tmp_path / "duet.xml").write_text(f"<score-partwise><part-list>{parts}</part-list></score-partwise>")
    read = read_source(Source(str(tmp_path / "duet.xml"), "bach/duet.xml", voices=4))
    assert read.rejected == [("bach/duet.xml", "number of parts is 2, expected 4")]
