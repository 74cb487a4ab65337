"""The page of a protocol: curves one stage behind the other, facts from the runs' own files, and nothing that a name could smuggle in."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from musictrain.dashboard.stages import DATA_NAME, PAGE_NAME, StagesData, write_stages_data, write_stages_page
from musictrain.runs import RunFolder
from musictrain.runs.records import Records
from musictrain.runs.status import Status

EVIL = "</script><script>alert(1)</script>"


def write_run(runs: Path, name: str, losses: list[float]) -> RunFolder:
    run = RunFolder(runs / name)
    run.path.mkdir(parents=True)
    rows = Records(run.metrics)
    for step, loss in enumerate(losses, start=1):
        rows.append({"time": time.time(), "step": step, "epoch": 0, "train/loss": loss, "other": 1.0})
    rows.close()
    run.status.write_text(Status(name, state="finished", step=len(losses), total=len(losses)).as_json())
    return run


def stage(name: str, run: str = "", **more: Any) -> dict[str, Any]:
    return {"name": name, "run": run, "state": "finished" if run else "to come", "budget": "3 steps", "takes_over": "nothing", **more}


def told(*stages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"stages": list(stages), "replaced": [], "left": None, "share": None, **more}


def test_the_curves_of_a_stage_begin_where_those_of_the_one_before_end(tmp_path: Path) -> None:
    for name, losses in (("one", [3.0, 2.0, 1.0]), ("two", [0.5, 0.25])):
        write_run(tmp_path, name, losses)
    data = StagesData(tmp_path / "protocol", "small").read(told(stage("a", "one"), stage("b", "two"), stage("c")), going_on=True)
    assert data["curves"] == {"train/loss": {0: ["1,2,3", "3,2,1"], 1: ["4,5", "0.5,0.25"]}}
    assert [each["offset"] for each in data["stages"]] == [0, 3, 5]
    assert [each.get("step") for each in data["stages"]] == [3, 2, None]


def test_what_is_new_is_added_at_the_next_look(tmp_path: Path) -> None:
    run, reader = write_run(tmp_path, "one", [3.0]), StagesData(tmp_path / "protocol", "small")
    reader.read(told(stage("a", "one")), going_on=True)
    Records(run.metrics).append({"time": time.time(), "step": 2, "epoch": 0, "train/loss": 2.5})
    assert reader.read(told(stage("a", "one")), going_on=True)["curves"]["train/loss"][0] == ["1,2", "3,2.5"]


def test_the_pieces_of_the_last_step_are_linked(tmp_path: Path) -> None:
    run = write_run(tmp_path, "one", [3.0])
    for step in (1, 3):
        run.samples_at(step).mkdir(parents=True)
        (run.samples_at(step) / "alone_1.wav").touch()
    (run.samples_at(5)).mkdir()
    data = StagesData(tmp_path / "protocol", "small").read(told(stage("a", "one")), going_on=False)
    assert data["stages"][0]["samples"] == [{"step": 3, "file": "step_000003/alone_1"}]


def test_the_files_are_one_page_and_one_call_and_nothing_in_them_ends_a_script(tmp_path: Path) -> None:
    folder = tmp_path / "protocol"
    folder.mkdir()
    write_stages_page(folder, EVIL)
    data = StagesData(folder, EVIL).read(told(stage("a", reason=EVIL), replaced=[{"stage": "a", "run": EVIL}]), going_on=True)
    write_stages_data(folder, data)
    page, script = (folder / PAGE_NAME).read_text(), (folder / DATA_NAME).read_text()
    assert "alert(1)</script>" not in page
    assert page.count("<script>") == page.count("</script>") == 4, "settings, base, curves, stages"
    assert "connect-src 'none'" in page.replace("&#x27;", "'")
    assert script.startswith("musictrain.stages({")
    assert "<" not in script
    assert json.loads(script.removeprefix("musictrain.stages(").removesuffix(");\n"))["title"] == EVIL
