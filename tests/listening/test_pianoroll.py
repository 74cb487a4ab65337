"""What the picture promises: a file whatever the piece, systems that never get thin, plain text for titles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from musictrain.listening.bars import bar_lines
from musictrain.listening.instruments import part_names
from musictrain.listening.pianoroll import draw_pianoroll, lay_out
from musictrain.notes import Notes, TimeSignature

PNG = b"\x89PNG\r\n\x1a\n"


def size_of(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(PNG)
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def chorale(bars: int) -> Notes:
    rows = [(beat, 1, pitch) for beat in range(4 * bars) for pitch in (72, 67, 60, 48)]
    return Notes.from_rows(rows, track=[0, 1, 2, 3] * (4 * bars))


def crowd(size: int) -> Notes:
    rng = np.random.default_rng(1)
    return Notes(rng.uniform(0, 300, size), rng.uniform(0, 3, size), rng.integers(30, 90, size), drum=rng.random(size) < 0.2)


PIECES = {
    "empty": Notes.empty(),
    "one note": Notes.from_rows([(0, 1, 60)]),
    "drums only": Notes.from_rows([(beat / 2, 0.1, 36 + beat % 9) for beat in range(40)], drum=np.ones(40, bool)),
    "voices": chorale(3),
    "no length": Notes.from_rows([(0, 0, 127), (3.99, 0, 0)]),
}


@pytest.mark.parametrize("name", PIECES)
def test_any_piece_becomes_a_picture(name: str, tmp_path: Path) -> None:
    draw_pianoroll(PIECES[name], tmp_path / "a.png", title=name, prompt_beats=2.0)
    width, height = size_of(tmp_path / "a.png")
    assert width == 1430
    assert 100 < height < 1000


def test_five_thousand_notes_become_a_picture(tmp_path: Path) -> None:
    draw_pianoroll(crowd(5000), tmp_path / "a.png")
    assert 1000 < size_of(tmp_path / "a.png")[1] < 8000


def test_the_same_notes_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_pianoroll(chorale(2), tmp_path / name, title="Chorale")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_every_note_of_another_pitch_or_velocity_is_seen(tmp_path: Path) -> None:
    drawn = []
    for number, columns in enumerate([{}, {"velocity": [20]}, {"program": [40], "track": [1]}]):
        draw_pianoroll(Notes.from_rows([(0, 1, 60)], **columns), tmp_path / f"{number}.png")  # type: ignore[arg-type]
        drawn.append((tmp_path / f"{number}.png").read_bytes())
    draw_pianoroll(Notes.from_rows([(0, 1, 61)]), tmp_path / "x.png")
    assert len({*drawn, (tmp_path / "x.png").read_bytes()}) == 4


@pytest.mark.parametrize("title", ["$\\frac{", "a $x^$ b", "line\nbreak\x00\x1b[31m", "\u6f22\u5b57 \U0001f3b5", "x" * 5000])
def test_titles_are_plain_text(title: str, tmp_path: Path) -> None:
    draw_pianoroll(PIECES["one note"], tmp_path / "a.png", title=title)
    assert size_of(tmp_path / "a.png")[0] == 1430


def test_drawing_leaves_no_global_figure_behind(tmp_path: Path) -> None:
    draw_pianoroll(PIECES["one note"], tmp_path / "a.png")
    from matplotlib import _pylab_helpers

    assert not _pylab_helpers.Gcf.figs


@pytest.mark.parametrize(("bars", "systems"), [(1, 1), (9, 1), (10, 2), (12, 2), (36, 4), (400, 14)])
def test_long_pieces_wrap_into_equal_systems(bars: int, systems: int) -> None:
    layout = lay_out(chorale(bars))
    lengths = [len(lines) - 1 for lines in layout.systems]
    assert len(lengths) == systems
    assert sum(lengths) == bars
    assert set(lengths[:-1]) <= {max(lengths)}
    assert all(end[-1] == begin[0] for end, begin in zip(layout.systems[:-1], layout.systems[1:], strict=True))


def test_drums_lie_in_rows_below_the_lowest_pitch() -> None:
    layout = lay_out(Notes.from_rows([(0, 1, 60), (0, 1, 36), (0, 1, 42)], drum=[False, True, True]))
    assert layout.bottom < layout.drum_row(36) < layout.drum_row(42) < layout.lowest


def test_four_tracks_without_programs_are_voices() -> None:
    assert list(part_names(chorale(1)).values()) == ["Soprano", "Alto", "Tenor", "Bass"]
    assert list(part_names(Notes.from_rows([(0, 1, 60)] * 3, track=[0, 1, 2], program=[40, 41, 0])).values()) == [
        "Strings 1",
        "Strings 2",
        "Piano",
    ]


def test_bar_lines_follow_the_time_signatures() -> None:
    signs = (TimeSignature(0, 3, 4), TimeSignature(6, 6, 8), TimeSignature(10.5, 2, 2))
    notes = Notes.from_rows([(0, 16, 60)], time_signatures=signs)  # type: ignore[arg-type]
    assert bar_lines(notes).tolist() == [0, 3, 6, 9, 10.5, 14.5, 18.5]
    assert bar_lines(notes, until=4).tolist() == [0, 3, 6]
    assert bar_lines(Notes.empty()).tolist() == [0, 4]
    assert bar_lines(Notes.from_rows([(0, 4, 60)])).tolist() == [0, 4]
