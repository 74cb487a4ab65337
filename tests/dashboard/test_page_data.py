"""A run folder becomes one dictionary: complete for a small run, at most a megabyte for any, nothing of it able to harm a page."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from musictrain.dashboard import curve_reading
from musictrain.dashboard.page_data import PageData
from musictrain.dashboard.page_files import script_json
from musictrain.runs.folder import RunFolder
from musictrain.runs.rows import marker
from tests.dashboard.run_folders import HOSTILE, alert, make_run, training, write_lines


def curve(data: dict[str, Any], key: str) -> list[tuple[int, float]]:
    """A curve of the page's data as points."""
    told = next(each for each in data["curves"] if each["key"] == key)
    step, points = 0, []
    for difference, value in zip(told["steps"].split(","), told["values"].split(","), strict=True):
        step += int(difference)
        points.append((step, float(value)))
    return points


def test_everything_a_small_run_holds_is_told(tmp_path: Path) -> None:
    events = [
        {"time": 1, "event": "saved", "version": "v000001_step000050.ckpt", "step": 50, "reason": "validation", "bytes": 9},
        {"time": 2, "event": "best", "metric": "val/loss", "value": 0.7, "step": 60},
        alert(70),
        {"time": 4, "event": "log", "level": "ERROR", "logger": "x", "message": "bad", "step": None},
    ]
    log = "2026-01-01 10:00:00,123 WARNING  a warning\n  that goes on\n"
    run = make_run(tmp_path / "run", events=events, log=log, config={"a": {"b": [1, 2]}, "c": None})
    (run.path / "corpus_bands.json").write_text('{"val/groove_similarity": [0.8, 0.95]}', encoding="utf-8")
    data = PageData(run).read()
    assert (data["run"], data["state"], data["step"]) == ("run", "training", 100)
    assert curve(data, "train/loss")[0] == (1, pytest.approx(2 * math.exp(-1 / 30) + 0.3, rel=1e-5))
    assert len(curve(data, "val/loss")) == 10
    assert [(told["message"], told["level"], told["step"]) for told in data["alerts"]] == [
        ("bad", "ERROR", None),
        ("The loss rose.", "WARNING", 70),
    ]
    assert data["versions"][0]["name"] == "v000001_step000050"
    assert data["best"] == {"metric": "val/loss", "value": 0.7, "step": 60}
    assert data["settings"] == [["a.b", "[1, 2]"], ["c", "null"]]
    assert data["log"] == [["2026-01-01 10:00:00,123", "WARNING", "a warning"], ["", "WARNING", "  that goes on"]]
    assert data["bands"] == [["val/groove_similarity", 0.8, 0.95]]
    assert [event["event"] for event in data["events"]] == ["started", "saved", "best"]
    assert data["left_out"] == []


def test_time_and_tokens_are_known_by_step_and_pauses_between_attempts_do_not_count(tmp_path: Path) -> None:
    rows = [
        marker(1, 0, 1000.0),
        {"time": 1010.0, "step": 10, "loss": 1.0, "train/tokens": 100},
        {"time": 1030.0, "step": 30, "loss": 1.0, "train/tokens": 300},
        marker(2, 10, 9000.0),
        {"time": 9005.0, "step": 20, "loss": 2.0, "train/tokens": 200},
    ]
    data = PageData(make_run(tmp_path / "run", rows=rows)).read()
    assert data["axes"]["seconds"] == {"steps": "10,10", "values": "10,15"}
    assert data["axes"]["tokens"] == {"steps": "10,10", "values": "100,200"}
    assert curve(data, "loss") == [(10, 1.0), (20, 2.0)]


def test_reading_on_is_the_same_as_reading_anew(tmp_path: Path) -> None:
    rows = list(training(60, 1000.0))
    run = make_run(tmp_path / "run", rows=rows[:20])
    growing = PageData(run)
    growing.read()
    for end in (21, 40, len(rows)):
        write_lines(run.metrics, rows[:end])
        told = growing.read()
    assert told["curves"] == PageData(run).read()["curves"]
    assert told["axes"] == PageData(run).read()["axes"]


def test_a_long_run_can_be_read_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_reading, "BLOCK_BYTES", 2_000)
    run = make_run(tmp_path / "run")
    growing = PageData(run)
    first = growing.read(most_blocks=1)
    assert 0 < len(first["curves"][0]["steps"].split(",")) < 100
    assert "still being read" in first["left_out"][0]
    told = growing.read()
    assert told["left_out"] == []
    assert told["curves"] == PageData(run).read()["curves"]


def test_a_file_that_became_another_is_read_from_its_beginning(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=training(60, 1000.0))
    growing = PageData(run)
    growing.read()
    write_lines(run.metrics, [{"time": 5.0, "step": 3, "loss": 4.0}])
    told = growing.read()
    assert [each["key"] for each in told["curves"]] == ["loss"]
    assert curve(told, "loss") == [(3, 4.0)]


def test_values_that_are_no_numbers_are_kept_as_such_and_texts_are_no_curves(tmp_path: Path) -> None:
    rows = [{"time": 1.0, "step": step, "loss": value, "name": "text"} for step, value in enumerate(["NaN", 1.0, "-Infinity", 2.0], 1)]
    data = PageData(make_run(tmp_path / "run", rows=rows)).read()
    assert [each["key"] for each in data["curves"]] == ["loss"]
    assert data["curves"][0]["values"] == "NaN,1,-Infinity,2"


def test_an_empty_folder_and_a_foreign_one_are_told_too(tmp_path: Path) -> None:
    data = PageData(RunFolder(tmp_path)).read()
    assert (data["state"], data["status"], data["curves"], data["alerts"], data["settings"]) == ("unknown", None, [], [], [])
    for name in ("metrics.jsonl", "events.jsonl", "status.json", "config.yaml", "env.json", "lineage.json", "labels.json"):
        (tmp_path / name).write_bytes(b"\xff\xfe{[not what it should be\n[]\n\x00\n")
    data = PageData(RunFolder(tmp_path)).read()
    assert (data["state"], data["curves"]) == ("unknown", [])


def test_a_file_that_cannot_be_understood_is_complained_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # A complaint becomes an alert of the very page that is drawn: one at each drawing would never end.
    run = make_run(tmp_path / "run")
    for file in (run.labels, run.lineage):
        file.write_text("{not JSON", encoding="utf-8")
    growing = PageData(run)
    for _ in range(3):
        growing.read()
    assert sorted(Path(str(record.args[0])).name for record in caplog.records if record.args) == ["labels.json", "lineage.json"]


def test_the_difference_to_the_parent_run_is_told(tmp_path: Path) -> None:
    make_run(tmp_path / "parent", config={"model": {"width": 64}, "seed": 1})
    run = make_run(tmp_path / "child", config={"model": {"width": 128}, "seed": 1, "new": True})
    run.lineage.write_text(json.dumps([{"relation": "started from", "run": "parent", "version": "v000001", "step": 5}]), encoding="utf-8")
    data = PageData(run).read()
    assert data["parent"] == "parent"
    assert data["changes"] == [["model.width", "64", "128"], ["new", "null", "true"]]
    assert data["parents"] == ["started from parent, v000001"]


@pytest.mark.parametrize("name", ["../secret", "/etc", "..", "", "parent/../parent"])
def test_a_parent_is_a_run_beside_this_one(tmp_path: Path, name: str) -> None:
    make_run(tmp_path / "parent")
    run = make_run(tmp_path / "runs" / "child", config={"other": 1})
    run.lineage.write_text(json.dumps([{"relation": "started from", "run": name}]), encoding="utf-8")
    assert PageData(run).read()["parent"] is None


def test_alerts_that_say_the_same_are_one_with_a_count(tmp_path: Path) -> None:
    data = PageData(make_run(tmp_path / "run", events=[alert(1), alert(2, "Other."), alert(3)])).read()
    assert [(told["message"], told["count"], told["step"]) for told in data["alerts"]] == [("The loss rose.", 2, 3), ("Other.", 1, 2)]
    assert data["num_alerts"] == 3


def test_any_run_fits_into_a_megabyte_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    keys = {f"val/{'score' * 30}{number}<&>": 0.123456 for number in range(5_000)}
    rows = [{"time": 1.0 + step, "step": step, **keys} for step in range(12)]
    rows += [{"time": 20.0 + step, "step": 100 + step, "train/loss": 1.0 / (step + 1)} for step in range(5_000)]
    rows += [{"time": 9e9, "step": 5_200, **{f"late{number}": 1.0 for number in range(50)}}]
    events = [alert(step, f"{step} " + "<&>" * 400_000 if step < 2 else f"{step} " + HOSTILE * 9) for step in range(2_000)]
    config = {f"key{number}": "<v>" * 200 for number in range(3_000)}
    run = make_run(tmp_path / "run", rows=rows, events=events, config=config, log="line " + "<&>" * 300_000 + "\n" + "x\n" * 20_000)
    data = PageData(run).read()
    size = len(script_json(data)) + len("musictrain.update();\n")
    assert 200_000 < size <= 1_000_000
    words = " ".join(data["left_out"])
    assert [what for what in ("curves", "alerts", "settings") if what not in words] == []
    # What is looked at first keeps its detail longest.
    assert len(curve(data, "train/loss")) > 1_000


def test_curves_nobody_looks_at_first_lose_their_detail_first(tmp_path: Path) -> None:
    keys = [*(f"speed/rank_{rank}/x" for rank in range(8)), "train/loss", "val/groove"]
    rows = [{"time": float(step), "step": step, **dict.fromkeys(keys, math.sin(step))} for step in range(1, 1_500)]
    data = PageData(make_run(tmp_path / "run", rows=rows), most_bytes=60_000).read()
    assert len(script_json(data)) <= 60_000
    assert len(curve(data, "train/loss")) > 10 * len(curve(data, "speed/rank_7/x"))
    assert any("detail of" in words for words in data["left_out"])


def test_the_names_of_a_run_are_never_keys(tmp_path: Path) -> None:
    rows = [{"time": 1.0, "step": 1, HOSTILE: 1.0, "__proto__": 2.0}]
    run = make_run(tmp_path / "run", rows=rows, events=[alert(1, HOSTILE, kind=HOSTILE)], config={HOSTILE: HOSTILE}, log=HOSTILE)
    data = PageData(run).read()

    def keys(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value).union(*map(keys, value.values()))
        return set().union(*map(keys, value)) if isinstance(value, list) else set()

    assert not {key for key in keys(data) if "script" in key or "proto" in key}
    text = script_json(data)
    assert text.isascii()
    assert not set("<>&\x1b") & set(text)
    assert "\\u001b" not in text
