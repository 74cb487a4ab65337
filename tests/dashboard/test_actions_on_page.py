"""What was done to a training is marked on every chart at its step, beside the alert that it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from musictrain.dashboard.page_data import PageData
from musictrain.dashboard.page_files import write_data, write_page
from tests.dashboard.browser import OpenPage, wait_until
from tests.dashboard.run_folders import HOSTILE, alert, make_run

EVENTS: list[dict[str, Any]] = [
    alert(40, did="The update of this step is left out."),
    {"time": 2.0, "event": "skipped", "step": 40, "kind": "non_finite"},
    {"time": 3.0, "event": "lr_reduced", "step": 50, "factor": 0.1, "until": 149},
    {"time": 4.0, "event": "rolled_back", "step": 60, "to": 30, "passed_over": "batches 58 to 59"},
]


def test_each_action_has_its_step_and_its_words(tmp_path: Path) -> None:
    data = PageData(make_run(tmp_path / "run", events=EVENTS)).read()
    assert [(told["step"], told["event"], told["text"]) for told in data["actions"]] == [
        (40, "skipped", "The update was left out"),
        (50, "lr_reduced", "Learning rate multiplied by 0.1 up to step 149"),
        (60, "rolled_back", "Went back to step 30, passing over batches 58 to 59"),
    ]
    assert [told["event"] for told in data["events"][-3:]] == ["skipped", "lr_reduced", "rolled_back"]


def test_what_is_no_action_or_has_no_step_is_none(tmp_path: Path) -> None:
    events = [{"time": 1.0, "event": "skipped"}, {"time": 1.0, "event": "skipped", "step": "3"}, {"time": 1.0, "event": "saved", "step": 3}]
    assert PageData(make_run(tmp_path / "run", events=events)).read()["actions"] == []


def test_thousands_of_them_are_the_last_ones(tmp_path: Path) -> None:
    events = [{"time": 1.0, "event": "skipped", "step": step} for step in range(3_000)]
    actions = PageData(make_run(tmp_path / "run", events=events)).read()["actions"]
    assert actions[-1]["step"] == 2_999
    assert len(actions) <= 200


@pytest.mark.slow
def test_actions_are_marked_on_the_charts(open_page: OpenPage, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", events=[*EVENTS, {"time": 5.0, "event": "rolled_back", "step": 70, "to": HOSTILE}])
    write_page(run)
    write_data(run, PageData(run).read())
    page = open_page(run.dashboard)
    marks = "[...document.querySelectorAll('.js-plotly-plot')].flatMap((plot) => plot.data).filter((trace) => trace.name === 'action')"
    wait_until(page, f"{marks}.length > 0")
    steps, texts = page.evaluate(f"[{marks}[0].x, {marks}[0].text]")
    assert steps == [40, 50, 60, 70]
    assert texts[0] == "The update was left out"
    assert "<" not in texts[3].replace("&lt;", "")
