"""The live page in a real browser without a network: it updates itself, keeps the reader's place, and lets no name do anything."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from musictrain.dashboard.page_data import PageData
from musictrain.dashboard.page_files import write_data, write_page
from musictrain.dashboard.report import write_report
from musictrain.runs.folder import RunFolder
from musictrain.runs.rows import marker
from musictrain.runs.status import process_start
from tests.dashboard.browser import PHONE, OpenPage, wait_until
from tests.dashboard.run_folders import HOSTILE, alert, make_run, training, write_lines

pytestmark = pytest.mark.slow
LOSS = "#charts-learning .chart:nth-child(1) .plot"
DRAWN = f"document.querySelector({LOSS!r})?.layout !== undefined"
RANGES = "[...document.querySelectorAll('.plot')].filter(plot => plot.layout).map(plot => plot.layout.xaxis.range.map(Math.round))"
STEP = "#facts dd span"
MISSING = "ERR_FILE_NOT_FOUND"


def draw(run: RunFolder) -> None:
    """What the thread of LivePage does once."""
    write_page(run)
    write_data(run, PageData(run).read())


def text(page: Any, selector: str) -> str:
    return str(page.locator(selector).first.inner_text())


def drag(page: Any, selector: str, start: float, end: float) -> None:
    """Draw a zoom over a chart, from one share of its width to another."""
    page.locator(selector).scroll_into_view_if_needed()
    box = page.locator(f"{selector} .nsewdrag").first.bounding_box()
    height = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + start * box["width"], height)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], height, steps=5)
    page.mouse.up()


FIT = """
import pathlib, sys, time, lightning, torch
from lightning.pytorch.demos.boring_classes import BoringModel
from musictrain.callbacks import LivePage, RunRecorder

class Slow(BoringModel):
    def training_step(self, batch, batch_idx):
        time.sleep(0.04)
        loss = self.step(batch)
        self.log("train/loss", loss)
        self.trainer.should_stop = pathlib.Path(sys.argv[1], "enough").exists()
        return loss

lightning.Trainer(
    default_root_dir=sys.argv[1], max_steps=100000, max_epochs=-1, accelerator="cpu", logger=False, log_every_n_steps=1,
    limit_val_batches=0, callbacks=[RunRecorder(), LivePage(every_seconds=0.3)], enable_model_summary=False, enable_progress_bar=False,
    enable_checkpointing=False,
).fit(Slow())
"""


def test_the_page_follows_a_fit_and_a_zoom_stays(open_page: OpenPage, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    process = subprocess.Popen([sys.executable, "-c", FIT, str(run.path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 300
        while not (run.dashboard_data.is_file() and "train/loss" in run.dashboard_data.read_text(encoding="ascii")):
            assert time.monotonic() < until, "no page was written"
            assert process.poll() is None, "the fit ended before there was a page"
            time.sleep(0.1)
        page = open_page(run.dashboard)
        wait_until(page, DRAWN)
        first = int(text(page, STEP).replace(",", ""))
        drag(page, LOSS, 0.2, 0.7)
        wait_until(page, "!document.querySelector('#zoomed').hidden")
        zoomed = page.evaluate(RANGES)[0]
        wait_until(page, f"Number(document.querySelector('{STEP}').textContent.replace(',', '')) > {first + 10}")
        assert page.evaluate(RANGES)[0] == zoomed
        assert text(page, "#state") == "training"
        (run.path / "enough").touch()
        assert process.wait(300) == 0
        wait_until(page, "!['training', '…'].includes(document.querySelector('#state').textContent)")
        assert text(page, "#state") in ("finished", "stopped by a rule")
        assert int(text(page, STEP).replace(",", "")) == PageData(run).read()["step"]
        assert page.evaluate(RANGES)[0] == zoomed
        assert page.evaluate("document.querySelector('#message').hidden")
    finally:
        process.kill()
        process.wait(120)


def test_one_zoom_moves_every_chart_and_only_what_changed_is_drawn_again(open_page: OpenPage, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=training(98, time.time()))
    draw(run)
    page = open_page(run.dashboard)
    wait_until(page, DRAWN)
    drag(page, LOSS, 0.25, 0.5)
    wait_until(page, f"{RANGES}.every(range => range[0] > 15 && range[1] < 60)")
    ranges = page.evaluate(RANGES)
    assert len(ranges) >= 3
    assert all(each == ranges[0] for each in ranges)
    assert "Steps" in text(page, "#zoomed")
    draws = "[...document.querySelectorAll('#charts-learning .plot')].map(plot => Number(plot.dataset.draws))"
    before = page.evaluate(draws)
    rows = list(training(98, time.time()))
    write_lines(run.metrics, [*rows, {"time": time.time(), "step": 99, "train/loss": 0.25}])
    write_data(run, PageData(run).read())
    wait_until(page, f"{draws}[0] > {before[0]}")
    assert page.evaluate(draws)[1:] == before[1:]
    assert page.evaluate(RANGES) == ranges
    page.locator(f"{LOSS} .nsewdrag").first.dblclick()
    wait_until(page, "document.querySelector('#zoomed').hidden")
    drag(page, LOSS, 0.25, 0.5)
    wait_until(page, "!document.querySelector('#zoomed').hidden")
    page.click("#reset-zoom")
    wait_until(page, f"{RANGES}.every(range => Math.abs(range[0]) <= 1 && range[1] >= 99)")
    assert page.locator("#zoomed").is_hidden()


def test_an_alert_leads_to_its_step_in_every_chart(open_page: OpenPage, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", events=[alert(70), alert(20, "Another.")])
    draw(run)
    page = open_page(run.dashboard)
    wait_until(page, DRAWN)
    assert text(page, "#nav-attention") == "2"
    assert "Another." in text(page, "#alerts li")
    page.locator("#alerts button").nth(1).click()
    wait_until(page, f"{RANGES}.every(range => range[0] >= 50 && range[0] < 70 && range[1] > 70 && range[1] <= 90)")
    lines = (
        "[...document.querySelectorAll('.plot')].filter(plot => plot.layout).every(plot => plot.layout.shapes.some(line => line.x0 === 70))"
    )
    wait_until(page, lines)


def test_axes_logarithm_and_smoothing_can_be_chosen_by_keyboard(open_page: OpenPage, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    draw(run)
    page = open_page(run.dashboard)
    wait_until(page, DRAWN)
    layout = f"document.querySelector({LOSS!r}).layout"
    page.focus("[data-axis=tokens]")
    page.keyboard.press("Enter")
    wait_until(page, f"{layout}.xaxis.title.text === 'tokens read' && {layout}.xaxis.range[1] >= 100000")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    wait_until(page, f"{layout}.xaxis.title.text === 'seconds of training'")
    page.focus("#log-y")
    page.keyboard.press("Enter")
    wait_until(page, f"{layout}.yaxis.type === 'log'")
    page.focus("#smoothing")
    page.keyboard.press("End")
    wait_until(page, f"document.querySelector({LOSS!r}).data.length > 3")
    assert text(page, "#smoothing-value") == "± 8 steps"
    page.focus(LOSS)
    page.keyboard.press("+")
    wait_until(page, "!document.querySelector('#zoomed').hidden")
    page.keyboard.press("Escape")
    wait_until(page, "document.querySelector('#zoomed').hidden")


def test_settings_and_log_are_searched(open_page: OpenPage, tmp_path: Path) -> None:
    log = "2026-01-01 10:00:00,000 INFO     fine\n2026-01-01 10:00:01,000 ERROR    went wrong\n"
    run = make_run(tmp_path / "run", log=log, config={"model": {"width": 64, "depth": 2}, "seed": 5})
    draw(run)
    page = open_page(run.dashboard)
    page.fill("#settings-body input", "model depth")
    assert page.locator("#settings-all tbody tr").all_inner_texts() == ["model.depth\t2"]
    assert page.locator("#log-lines li").count() == 2
    page.click("#log button:has-text('Errors')")
    assert page.locator("#log-lines .text").all_inner_texts() == ["went wrong"]
    page.click("#log button:has-text('Events')")
    assert "started" in text(page, "#log-lines")


@pytest.mark.parametrize("size", [None, PHONE])
def test_hostile_names_are_text(open_page: OpenPage, tmp_path: Path, size: tuple[int, int] | None) -> None:
    rows = [marker(1, 0, 1000.0)]
    for step in range(1, 40):
        values = {
            HOSTILE: 1.0 * step,
            f"val/{HOSTILE}": 2.0,
            "__proto__": 3.0,
            "constructor": 4.0,
            f"speed/{HOSTILE}": 5.0,
            "train/loss": 1.0,
        }
        rows.append({"time": 1000.0 + step, "step": step, **values})
    saved = {"time": 1.0, "event": "saved", "version": HOSTILE, "step": 20, "reason": HOSTILE}
    run = make_run(
        tmp_path / "<img src=x onerror=window.broken=1>&quot;'",
        rows=rows,
        events=[alert(30, HOSTILE, advice=HOSTILE, kind=HOSTILE), saved, {"time": 2.0, "event": HOSTILE, "text": HOSTILE}],
        config={HOSTILE: HOSTILE, "__proto__": {"a": 1}},
        log=f"2026-01-01 10:00:00,000 ERROR    {HOSTILE}\n{HOSTILE}\n",
        reason=HOSTILE,
        advice=HOSTILE,
        state="failed",
        best={"metric": HOSTILE, "value": 1.0, "step": 3},
    )
    run.labels.write_text(json.dumps({"tags": [HOSTILE], "note": HOSTILE}), encoding="utf-8")
    (run.path / "corpus_bands.json").write_text(json.dumps({f"val/{HOSTILE}": [0, 1], "__proto__": [0, 1]}), encoding="utf-8")
    samples = run.samples_at(20)
    samples.mkdir(parents=True)
    (samples / "<img src=x onerror=window.broken=1>.json").write_text(json.dumps({"step": 20, "prompt": HOSTILE}), encoding="utf-8")
    draw(run)
    page = open_page(run.dashboard, **({"size": size} if size else {}))
    wait_until(page, DRAWN)
    page.locator("#alerts button").first.click()
    page.wait_for_timeout(600)
    if size is None:
        box = page.locator(LOSS).bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_timeout(300)
    assert page.evaluate("window.broken") is None
    assert page.evaluate("document.querySelectorAll('img, iframe, object, h3 b').length") == 0
    assert page.evaluate("({}).a") is None
    assert "<img src=x onerror" in text(page, "#alerts")
    assert "<b>b</b>" in text(page, "#note")
    assert "\x1b" not in text(page, "body")
    # Nothing is wider than the window, whatever the names are.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_no_script_but_the_pages_own_may_run(open_page: OpenPage, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    draw(run)
    page = open_page(run.dashboard, allow=("Content Security Policy",))
    wait_until(page, DRAWN)
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,x\" onerror=\"window.broken = 1\">')")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.broken = 2'}))")
    page.evaluate("fetch('dashboard_data.js').catch(() => {})")
    page.wait_for_timeout(300)
    assert page.evaluate("window.broken") is None


def test_a_run_that_fell_silent_is_stale(open_page: OpenPage, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", updated=time.time())
    draw(run)
    # The page was written while the run lived; a clock that goes on finds it silent.
    page = open_page(run.dashboard)
    page.wait_for_selector("#state[data-tone=busy]")
    later = open_page(run.dashboard, init="const now = Date.now; Date.now = () => now() + 3600e3;")
    later.wait_for_selector("#state:has-text('stale')")
    assert "musictrain resume run" in text(later, "#ending")


def test_a_run_that_went_back_says_why_for_as_long_as_it_goes_on(open_page: OpenPage, tmp_path: Path) -> None:
    reason = "Rolled back from step 12 to step 9, passing over batches 10 to 11. At step 12 the training loss is 9.2, normally 2.1."
    run = make_run(tmp_path / "run", reason=reason, advice="", rows=training(20, time.time()))
    draw(run)
    page = open_page(run.dashboard)
    wait_until(page, "!document.querySelector('#ending').hidden")
    assert text(page, "#ending") == f"The run went back, and goes on from an earlier version.\n{reason}"
    assert page.evaluate("document.querySelector('#no-alerts').hidden")
    make_run(tmp_path / "run", state="finished", reason="", rows=training(20, time.time()))
    draw(run)
    wait_until(page, "document.querySelector('#ending').hidden")


def test_replayed_steps_are_linked_and_a_report_that_stands_alone_links_nothing(open_page: OpenPage, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    draw(run)
    page = open_page(run.dashboard)
    wait_until(page, DRAWN)
    assert page.is_hidden("#replays")
    for name in ("step_001234", "step_000005_attempt_1"):
        (run.path / "replay" / name).mkdir(parents=True)
        (run.path / "replay" / name / "index.html").write_text(f"<title>{name}</title>")
    draw(run)
    wait_until(page, "!document.querySelector('#replays').hidden")
    assert text(page, "#replays") == "Done again with musictrain replay: step 5 of attempt 1, step 1,234."
    page.click("#replays a:last-of-type")
    wait_until(page, "document.title === 'step_001234'")
    alone = open_page(write_report(run, tmp_path / "alone.html"))
    wait_until(alone, DRAWN)
    assert alone.is_hidden("#replays")


def test_a_run_whose_process_was_killed_is_stale_at_once(open_page: OpenPage, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    born = process_start(process.pid)
    run = make_run(tmp_path / "run", host=socket.gethostname(), pid=process.pid, process_started=born)
    assert PageData(run).read()["state"] == "training"
    process.kill()
    process.wait(120)
    draw(run)
    page = open_page(run.dashboard)
    page.wait_for_selector("#state:has-text('stale')")
    assert "musictrain resume" in text(page, "#ending")


def test_a_run_of_a_million_rows_opens(open_page: OpenPage, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=[])
    with run.metrics.open("w", encoding="ascii") as file:
        for step in range(1, 1_000_001):
            file.write(f'{{"time":{step},"step":{step},"train/loss":{9.5 if step == 777_777 else 1 / step + 0.3 + step % 7 / 100:.6f}}}\n')
    draw(run)
    assert run.dashboard_data.stat().st_size <= 1_000_000
    page = open_page(run.dashboard)
    wait_until(page, DRAWN)
    drawn = page.evaluate(f"(trace => [trace.x.length, Math.max(...trace.y), trace.x.at(-1)])(document.querySelector({LOSS!r}).data[0])")
    assert drawn[0] <= 2_000
    assert drawn[1:] == [9.5, 1_000_000]


def test_a_report_stands_alone(open_page: OpenPage, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", state="finished")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    shutil.move(write_report(run), folder / "report.html")
    shutil.rmtree(run.path)
    page = open_page(folder / "report.html")
    wait_until(page, DRAWN)
    assert text(page, "#state") == "finished"
    assert page.evaluate("document.querySelector('#message').hidden")
    assert "Report of" in text(page, "#written")
    assert [path.name for path in folder.iterdir()] == ["report.html"]


def test_without_plotly_the_numbers_are_shown_and_what_to_do(open_page: OpenPage, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    draw(run)
    for copy in tmp_path.glob("plotly*"):
        copy.unlink()
    page = open_page(run.dashboard, allow=(MISSING,))
    page.wait_for_selector("#message:has-text('pip install plotly')")
    page.wait_for_selector(f"{LOSS}:has-text('lowest')")
    assert page.locator(f"{LOSS} path").count() == 2
    assert text(page, STEP) == "100"


def test_a_missing_and_a_torn_data_file_are_explained_until_a_good_one_comes(open_page: OpenPage, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    draw(run)
    whole = run.dashboard_data.read_text(encoding="ascii")
    run.dashboard_data.unlink()
    page = open_page(run.dashboard, allow=(MISSING, "SyntaxError", "Unexpected", "Invalid"))
    page.wait_for_selector("#message:has-text('is missing')")
    run.dashboard_data.write_text(whole[: len(whole) // 2], encoding="ascii")
    page.wait_for_selector("#message:has-text('cannot be understood')")
    run.dashboard_data.write_text(whole, encoding="ascii")
    page.wait_for_selector("#message", state="hidden")
    assert text(page, STEP) == "100"
    run.dashboard_data.write_text('musictrain.update({"schema": 99, "run": "run"});', encoding="ascii")
    page.wait_for_selector("#message:has-text('different versions')")


def test_the_theme_follows_the_system_and_can_be_switched(open_page: OpenPage, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    draw(run)
    page = open_page(run.dashboard, dark=True)
    wait_until(page, DRAWN)
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.click("#theme")
    wait_until(page, f"{background} !== {dark!r}")
    page.emulate_media(color_scheme="light")
    page.reload()
    wait_until(page, f"{background} !== {dark!r}")


def test_nothing_jumps_when_new_data_comes(open_page: OpenPage, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=training(60, time.time()))
    draw(run)
    page = open_page(run.dashboard)
    wait_until(page, DRAWN)
    tops = "[...document.querySelectorAll('section, .chart')].map(node => Math.round(node.getBoundingClientRect().top + scrollY)).join()"
    page.wait_for_timeout(500)
    before = page.evaluate(tops)
    write_lines(run.metrics, training(80, time.time()))
    status = json.loads(run.status.read_text(encoding="utf-8"))
    run.status.write_text(json.dumps({**status, "step": 180, "left_seconds": 20.0}), encoding="utf-8")
    write_data(run, PageData(run).read())
    wait_until(page, f"document.querySelector('{STEP}').textContent === '180'")
    page.wait_for_timeout(500)
    assert page.evaluate(tops) == before


@pytest.mark.parametrize("dark", [False, True])
def test_texts_can_be_read_against_their_ground(open_page: OpenPage, tmp_path: Path, dark: bool) -> None:
    run = make_run(tmp_path / "run", events=[alert(5), alert(6, "Bad.", level="ERROR")], state="failed", reason="It broke.")
    draw(run)
    page = open_page(run.dashboard, dark=dark)
    wait_until(page, DRAWN)
    worst = page.evaluate(CONTRAST)
    assert worst[0] >= 4.5, worst


CONTRAST = """(() => {
  const parse = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const part = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const ownText = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  let worst = [99, ""];
  for (const node of document.querySelectorAll("body *")) {
    if (node.closest("svg, .plot, noscript") || !node.checkVisibility() || !ownText(node)) continue;
    let ground = node;
    while (ground && (parse(getComputedStyle(ground).backgroundColor)[3] ?? 1) === 0) ground = ground.parentElement;
    const [ink, paper] = [getComputedStyle(node).color, getComputedStyle(ground || document.body).backgroundColor].map(parse).map(light);
    const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (contrast < worst[0]) worst = [contrast, node.className + ": " + node.textContent.slice(0, 40)];
  }
  return worst;
})()"""


def test_music_is_explained_and_what_was_vetoed_is_said_with_its_reason(open_page: OpenPage, tmp_path: Path) -> None:
    about = {"time": 1.0, "epoch": 0, "attempt": 1}
    values = [
        {**about, "step": step, "val/loss": 1 / step, "val/bar_repetition": step / 40, "val/copy_excess": 0.0} for step in (10, 20, 30)
    ]
    vetoes = [{**about, "step": 20, "vetoed": "it <b>copies</b>"}, {**about, "step": 30, "vetoed": "val/bar_repetition is 0.75, above 0.7"}]
    run = make_run(tmp_path / "run", rows=[*values, *vetoes], state="stopped", reason="It loops.", advice="Listen.")
    (run.path / "corpus_bands.json").write_text(json.dumps({"val/bar_repetition": [0.0, 0.25]}), encoding="utf-8")
    write_page(run)
    write_data(run, PageData(run).read())
    page = open_page(run.dashboard)
    page.wait_for_selector("#vetoed li")
    assert page.inner_text("#vetoed div").startswith("2 steps are never called best")
    assert page.locator("#vetoed li").all_inner_texts() == ["step 30 val/bar_repetition is 0.75, above 0.7", "step 20 it <b>copies</b>"]
    assert "It loops." in page.inner_text("#ending")
    assert "Listen." in page.inner_text("#ending")
    assert "0.1" in page.inner_text("#facts")  # the best is that of step 10
    titles = page.locator("#charts-music h3").all_inner_texts()
    assert titles == ["Copied beyond what is usual", "Bars repeated"]
    repeated = page.locator("#charts-music article").nth(1)
    assert repeated.locator(".about").inner_text().endswith("near 1 is a loop.")
    assert "corpus 10–90 %: 0 to 0.25" in repeated.inner_text()
    assert page.locator("#charts-learning .about").first.is_hidden()
    page.click("#vetoed button >> nth=1")
    assert page.evaluate("musictrain.plot.view.marked") == 20
