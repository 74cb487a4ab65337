"""The page over all runs says what the index says, stays light, and is written whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from musictrain.cli import runs_overview
from musictrain.cli.runs_query import Runs
from musictrain.dashboard import overview_data as module
from musictrain.dashboard.overview import SCRIPTS, data_file
from musictrain.dashboard.overview_data import overview_data
from musictrain.dashboard.page_files import PAGE, script_json
from musictrain.runs import RunFolder
from musictrain.runs.index import RunIndex
from musictrain.runs.labels import add_tags, set_archived
from musictrain.runs.lineage import add_parent
from tests.cli.tiny import type_command
from tests.runs.some_runs import append, losses, read_json, write_run, write_status

EVIL = "</script><img src=x onerror=alert(1)>"


def data_of(runs_dir: Path) -> dict[str, Any]:
    with RunIndex(runs_dir, read_json) as index:
        index.refresh()
        return overview_data(index, Runs(index).rows, "title")


def read_data(page: Path) -> dict[str, Any]:
    text = data_file(page).read_text(encoding="ascii")
    assert text.startswith("musictrain.overview(")
    assert text.endswith(");\n")
    return json.loads(text.removeprefix("musictrain.overview(").removesuffix(");\n"))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    runs_dir = tmp_path / "runs"
    best = {"metric": "val/loss", "value": 0.25, "step": 20}
    config = {"lr": 0.1, "name": "a", "trainer": {"logger": True}, "same": 1, "model": "x.A", "path": "a"}
    write_run(runs_dir, "a", losses(0.5, 0.25), config=config, state="finished", step=20, total=20, best=best, first_started=2.0)
    config = {**config, "lr": 0.2, "name": "b", "trainer": {"logger": False}, "model": "x.B"}
    write_run(runs_dir, "b", losses(1.0, float("nan")), config=config, state="training", step=20, updated=1e12, first_started=1.0)
    add_tags(RunFolder(runs_dir / "a"), ["paper"])
    (runs_dir / "a" / "dashboard.html").touch()
    return runs_dir


def test_the_data_say_what_the_index_says(runs: Path) -> None:
    data = data_of(runs)
    table = data["table"]
    assert {key: table[key] for key in ("name", "state", "best_value", "best_step", "tags", "page")} == {
        **{"name": ["a", "b"], "state": ["finished", "training"], "best_value": [0.25, 1.0], "best_step": [20, 10]},
        **{"tags": [["paper"], []], "page": [1, 0]},
    }
    assert data["metrics"] == [{"key": "val/loss", "last": [0.25, None], "min": [0.25, 1.0], "max": [0.5, 1.0]}]
    assert data["curves"] == {"val/loss": {0: ["10,20", "0.5,0.25"], 1: ["10", "1"]}}
    assert data["left_out"] == []


def test_only_settings_in_which_runs_differ_are_axes(runs: Path) -> None:
    assert data_of(runs)["settings"] == [
        {"key": "lr", "values": [0.1, 0.2]},
        {"key": "model", "kinds": ["x.A", "x.B"], "values": [0, 1]},
    ]


def test_texts_that_are_other_ones_in_every_run_are_no_axis(tmp_path: Path) -> None:
    for number in range(module.MOST_KINDS + 1):
        write_run(tmp_path, f"r{number}", config={"corpus": f"folder-{number}", "lr": number})
    assert [setting["key"] for setting in data_of(tmp_path)["settings"]] == ["lr"]


def test_curves_that_never_move_take_two_points(tmp_path: Path) -> None:
    write_run(tmp_path, "a", losses(*[0.5] * 40))
    assert data_of(tmp_path)["curves"] == {"val/loss": {0: ["10,400", "0.5,0.5"]}}


@pytest.mark.parametrize(("table", "metrics", "whole"), [(3_000, 2_000, 9_000), (50_000, 2_000, 30_000)])
def test_what_does_not_fit_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: int, metrics: int, whole: int
) -> None:
    for number in range(40):
        rows = [row for metric in range(6) for row in losses(*[(7 * step * metric) % 11 for step in range(30)], key=f"m/{metric}")]
        write_run(tmp_path, f"run-{number}", rows, config={"lr": number}, state="finished", first_started=float(number))
    for name, most in (("BYTES_OF_TABLE", table), ("BYTES_OF_METRICS", metrics), ("MOST_BYTES", whole), ("SPARE_BYTES", 500)):
        monkeypatch.setattr(module, name, most)
    data = data_of(tmp_path)
    assert whole // 2 < len(script_json(data)) <= whole
    kept = len(data["table"]["name"])
    assert data["table"]["name"][0] == "run-39"  # the newest stay
    told = "; ".join(data["left_out"])
    assert ("oldest of 40 runs" in told) == (kept < 40)
    assert re.search(r"\d of 6 metrics; the curves of \d+ runs", told)
    assert len(data["curves"]["m/1"]) < kept


def test_the_command_writes_a_page_that_stands_beside_the_runs(runs: Path, capsys: Any) -> None:
    status, out, err = type_command(capsys, "runs", "overview", "--runs", runs)
    assert (status, err) == (0, "")
    assert out.startswith("2 runs in ")
    page = runs / "overview.html"
    assert read_data(page)["title"] == "Runs in runs"
    assert [path.name for path in runs.glob("plotly-*.min.js")]
    html = page.read_text(encoding="utf-8")
    assert html.count("<script>") == len(SCRIPTS) + 1
    assert "default-src &#x27;none&#x27;" in html
    assert "unsafe-eval" not in html
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", html)


def test_a_page_elsewhere_knows_the_way_to_the_runs(runs: Path, capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    page = tmp_path / "pages" / "mine.html"
    assert type_command(capsys, "runs", "overview", "--runs", runs, "--out", page, "--state", "finished")[0] == 0
    assert '"base":"../runs"' in page.read_text(encoding="utf-8")
    assert '"data":"mine_data.js"' in page.read_text(encoding="utf-8")
    assert read_data(page)["table"]["name"] == ["a"]


def test_archived_runs_are_left_out_unless_asked_for(runs: Path, capsys: Any) -> None:
    set_archived(RunFolder(runs / "a"), True)
    type_command(capsys, "runs", "overview", "--runs", runs)
    assert read_data(runs / "overview.html")["table"]["name"] == ["b"]
    type_command(capsys, "runs", "overview", "--runs", runs, "--archived")
    assert read_data(runs / "overview.html")["table"]["name"] == ["a", "b"]


def test_watching_goes_on_until_no_run_does(runs: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(runs / "b")
    seen: list[list[Any]] = []

    def a_while_later(seconds: float) -> None:
        assert seconds == 7
        seen.append(read_data(runs / "overview.html")["table"]["step"])
        append(run.metrics, [{"step": 30, "val/loss": 0.1}])
        write_status(run, state="training" if len(seen) < 3 else "finished", step=20 + 10 * len(seen), updated=1e12, first_started=1.0)

    monkeypatch.setattr(runs_overview.time, "sleep", a_while_later)
    status, out, _ = type_command(capsys, "runs", "overview", "--runs", runs, "--watch", "--every", "7")
    assert (status, out.splitlines()[-1]) == (0, "No run goes on any more.")
    assert seen == [[20, 20], [20, 30], [20, 40]]
    assert read_data(runs / "overview.html")["table"]["state"] == ["finished", "finished"]


@pytest.mark.parametrize(
    ("words", "status", "complaint"),
    [
        (["--out", "page.txt"], 2, "--out expects a file that ends in .html, got page.txt."),
        (["--out", "nowhere/page.html"], 1, "Name another place with --out."),
        (["--where", "lrr>1"], 2, "Did you mean 'lr'?"),
        (["--json"], 2, "Unknown option --json."),
    ],
)
def test_mistakes_are_answered(
    runs: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, words: list[str], status: int, complaint: str
) -> None:
    monkeypatch.chdir(runs)
    done, _, err = type_command(capsys, "runs", "overview", "--runs", runs, *words)
    assert done == status
    assert complaint in err


def test_no_runs_make_no_page(tmp_path: Path, capsys: Any) -> None:
    status, _, err = type_command(capsys, "runs", "overview", "--runs", tmp_path)
    assert status == 2
    assert "holds no runs. Start one with `musictrain fit`" in err
    assert not (tmp_path / "overview.html").exists()


def test_names_cannot_leave_the_data(tmp_path: Path, capsys: Any) -> None:
    evil = EVIL.replace("/", "&#47;")
    run = write_run(tmp_path, f"x{evil}", losses(0.5, key=EVIL), config={EVIL: EVIL})
    write_run(tmp_path, "y", config={EVIL: "other"})
    add_tags(run, [EVIL])
    type_command(capsys, "runs", "overview", "--runs", tmp_path)
    for path in (tmp_path / "overview.html", tmp_path / "overview_data.js"):
        assert "onerror=alert" not in re.sub(r"\\u003cimg src=x onerror=alert", "", path.read_text(encoding="utf-8"))
    assert read_data(tmp_path / "overview.html")["metrics"][0]["key"] == EVIL


def test_scripts_make_no_html_of_texts() -> None:
    for name in SCRIPTS:
        script = (PAGE / name).read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script), name


def test_a_trial_is_told_with_the_search_that_made_it_and_whether_that_has_a_page(runs: Path) -> None:
    for search in ("rates", "later"):
        add_parent(RunFolder(runs / "a"), "trial of", search)
    data = data_of(runs)
    assert data["table"]["search"] == ["rates", ""]
    assert data["search_pages"] == []
    (runs / "rates").mkdir()
    (runs / "rates" / "dashboard.html").touch()
    assert data_of(runs)["search_pages"] == ["rates"]
