"""The page of a search: points and curves from files, what is too much is left out and said, and nothing that a name could smuggle in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from musictrain.dashboard.search import DATA_NAME, MOST_BYTES, PAGE_NAME, SearchData, cleaned, write_search_data, write_search_page
from tests.dashboard.made_up_search import RUNGS, told, write_trials

EVIL = "</script><script>alert(1)</script>"


def read(runs: Path, search: dict[str, Any]) -> dict[str, Any]:
    return SearchData(runs / "search", "search").read(search, going_on=True)


def test_each_point_has_the_curves_of_its_trials_up_to_the_rung_it_came_to(tmp_path: Path) -> None:
    search = told(9)
    write_trials(tmp_path, search)
    data = read(tmp_path, search)
    for place, point in enumerate(data["points"]):
        curves = data["curves"]["val/loss"][place]
        assert len(curves) == 3, "one a seed"
        assert {curve[0].rpartition(",")[2] for curve in curves} == {str(point["step"])}
    assert [point["rank"] for point in data["points"]] == [*range(1, 10)]
    assert all(trial["page"] for point in data["points"] for trial in point["trials"])
    assert data["rungs"] == RUNGS


def test_what_is_new_is_added_at_the_next_look(tmp_path: Path) -> None:
    search, reader = told(2, seeds=1), SearchData(tmp_path / "search", "search")
    assert reader.read(search, going_on=True)["curves"] == {}
    write_trials(tmp_path, search)
    assert set(reader.read(search, going_on=True)["curves"]["val/loss"]) == {0, 1}


def test_a_search_of_thousands_fits_into_a_megabyte_and_says_what_is_left_out(tmp_path: Path) -> None:
    search = told(4_000, seeds=1)
    search["failures"] = [{"name": "x", "run": "", "seed": 0, "step": 0, "attempts": 1, "words": "x" * 200, "reason": "y" * 200}] * 300
    data = read(tmp_path, search)
    write_search_data(tmp_path, data)
    assert (tmp_path / DATA_NAME).stat().st_size < MOST_BYTES
    kept = len(data["points"])
    assert 500 < kept < 4_000
    assert f"the last {4_000 - kept:,} of 4,000 points" in data["left_out"]
    assert "100 of 300 failures" in data["left_out"]


def test_numbers_that_json_does_not_know_are_nothing_and_texts_are_cut() -> None:
    assert cleaned({"a": [float("nan"), float("inf"), 0.123456789, 10**9, True, None]}) == {"a": [None, None, 0.12346, 10**9, True, None]}
    assert cleaned("\x1b[31m" + "x" * 1000) == "x" * 299 + "…"


def test_the_files_are_one_page_and_one_call_and_nothing_in_them_ends_a_script(tmp_path: Path) -> None:
    folder = tmp_path / "search"
    folder.mkdir()
    write_search_page(folder, EVIL)
    search = told(3, seeds=1)
    search["points"][0] |= {"values": {EVIL: EVIL}, "reason": EVIL}
    write_search_data(folder, SearchData(folder, EVIL).read(search, going_on=True))
    page, script = (folder / PAGE_NAME).read_text(), (folder / DATA_NAME).read_text()
    assert "alert(1)</script>" not in page
    assert page.count("<script>") == page.count("</script>") == 7, "settings, base, curves, parallel, points, charts, search"
    assert "connect-src 'none'" in page.replace("&#x27;", "'")
    assert script.startswith("musictrain.search({")
    assert "<" not in script
    assert json.loads(script.removeprefix("musictrain.search(").removesuffix(");\n"))["title"] == EVIL


def test_a_folder_that_cannot_be_written_is_an_error_for_whoever_asked(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        write_search_page(tmp_path / "nowhere" / "search", "search")
