"""Samples heard in a real browser without a network: the audio graph sounds, at the right pitches, and falls silent again."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from musictrain.dashboard import page_files
from musictrain.dashboard.page_data import PageData
from musictrain.dashboard.report import write_report
from musictrain.notes import Notes
from musictrain.runs import RunFolder
from tests.dashboard.browser import PHONE, OpenPage
from tests.dashboard.listen_page import LOUD, RMS, VIEW, ready, update, wait_until, write_page
from tests.dashboard.some_samples import add_sample, run_with_samples

pytestmark = pytest.mark.slow
HOSTILE = "</script><img src=x onerror=alert(1)>"
HOSTILE_FILE = "a<img src=x onerror=alert(1)> %41?#&'\"x"


def one_note(tmp_path: Path, pitch: int, **columns: Any) -> RunFolder:
    run = RunFolder(tmp_path)
    add_sample(run, "step_000001", "from_nothing", Notes.from_rows([(0, 40, pitch)], **columns), prompt=None)
    return run


def test_a_roll_plays_and_is_silent_before_and_after(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(write_page(run_with_samples(tmp_path)))
    ready(page)
    assert page.evaluate(RMS) == 0
    page.click(".ls-play")
    wait_until(page, f"{RMS} > {LOUD}")
    wait_until(page, f"{VIEW}.player.beat() > 1.0")
    assert page.get_attribute(".ls-play", "aria-label") == "Pause"
    page.click(".ls-play")
    wait_until(page, f"{RMS} < 1e-6")
    assert page.evaluate(f"{VIEW}.player.beat()") >= 1.0


def test_a_rest_is_silent_while_it_plays(open_page: OpenPage, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    add_sample(run, "step_000001", "from_nothing", Notes.from_rows([(80, 40, 69)]), prompt=None)
    page = open_page(write_page(run))
    ready(page)
    page.click(".ls-play")
    wait_until(page, f"{VIEW}.player.beat() > 0.5")
    assert page.evaluate(f"[{VIEW}.player.playing, {RMS}]") == [True, 0]
    page.evaluate(f"{VIEW}.player.seek(81)")
    wait_until(page, f"{RMS} > {LOUD}")


@pytest.mark.parametrize(("pitch", "program"), [(45, 0), (69, 0), (69, 40), (84, 73)])
def test_a_note_sounds_at_its_pitch(open_page: OpenPage, tmp_path: Path, pitch: int, program: int) -> None:
    page = open_page(write_page(one_note(tmp_path, pitch, program=[program])))
    ready(page)
    page.click(".ls-play")
    wait_until(page, f"{RMS} > {LOUD} && {VIEW}.player.beat() > 1.0")
    peak = page.evaluate(
        f"""(() => {{ const node = {VIEW}.player.analyser; const bins = new Float32Array(node.frequencyBinCount);
        node.getFloatFrequencyData(bins); return bins.indexOf(Math.max(...bins)) * node.context.sampleRate / node.fftSize; }})()"""
    )
    assert abs(peak - 440.0 * math.pow(2.0, (pitch - 69) / 12)) < 6.0


def test_drums_sound(open_page: OpenPage, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    rows = [(beat / 2, 0.5, pitch) for beat in range(64) for pitch in (36, 38, 42, 77)]
    add_sample(run, "step_000001", "from_nothing", Notes.from_rows(rows, drum=[True] * len(rows)), prompt=None)
    page = open_page(write_page(run))
    ready(page)
    page.click(".ls-play")
    wait_until(page, f"{RMS} > {LOUD}")
    assert "Drums" in page.inner_text(".ls-legend")


def test_tempo_and_volume_act_while_it_plays(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(write_page(one_note(tmp_path, 69, program=[40])))
    ready(page)
    page.click(".ls-play")
    wait_until(page, f"{RMS} > {LOUD}")
    page.get_by_label("Tempo").fill("200")
    assert page.evaluate(f"[{VIEW}.player.rate, {VIEW}.player.playing]") == [2, True]
    page.get_by_label("Volume").fill("0")
    wait_until(page, f"{RMS} < 1e-5")
    assert page.evaluate(f"{VIEW}.player.playing")


def test_the_other_side_goes_on_at_the_same_place(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(write_page(run_with_samples(tmp_path)))
    ready(page)
    wait_until(page, f"{VIEW}.shapes.b !== undefined")
    assert page.evaluate(f"{VIEW}.slots") == {"a": "step_000300/continued_1", "b": "reference/continued_1"}
    assert page.inner_text(".ls-side >> nth=1") == "B\ncorpus"
    page.click(".ls-play")
    wait_until(page, f"{VIEW}.player.beat() > 1.5")
    turn = "const before = view.player.beat(); view.turnTo('b'); return [before, view.player.beat(), view.player.playing];"
    before, after, playing = page.evaluate(f"((view) => {{ {turn} }})({VIEW})")
    assert playing
    assert after == pytest.approx(before, abs=0.05)
    wait_until(page, f"{VIEW}.player.beat() > {before} && {RMS} > {LOUD}")
    assert page.get_attribute(".ls-side >> nth=1", "aria-pressed") == "true"


def test_any_cell_plays_and_any_can_be_compared_with(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(write_page(run_with_samples(tmp_path)))
    ready(page)
    page.click("[data-key='step_000150/continued_2']")
    wait_until(page, f"{VIEW}.player.playing && {VIEW}.slots.a === 'step_000150/continued_2'")
    page.hover("[data-key='step_000300/continued_2']")
    page.click("[data-key='step_000300/continued_2'] + .ls-compare")
    assert page.evaluate(f"{VIEW}.slots.b") == "step_000300/continued_2"
    page.click("[data-key='step_000150/continued_2']")
    wait_until(page, f"!{VIEW}.player.playing")
    with page.expect_download() as download:
        page.click(".ls-save")
    assert download.value.suggested_filename == "continued_2.mid"
    assert Path(download.value.path()).read_bytes() == (tmp_path / "samples" / "step_000150" / "continued_2.mid").read_bytes()


def test_the_keyboard_plays_and_goes_by_bars(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(write_page(run_with_samples(tmp_path)))
    ready(page)
    page.focus(".ls-head")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(f"{VIEW}.player.beat()") == 8
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(f"{VIEW}.player.beat()") == 4
    page.keyboard.press(" ")
    wait_until(page, f"{VIEW}.player.playing && {RMS} > {LOUD}")
    page.keyboard.press("b")
    assert page.evaluate(f"{VIEW}.active") == "b"
    page.keyboard.press(" ")
    wait_until(page, f"!{VIEW}.player.playing")
    page.focus("[data-key='step_000150/continued_1']")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.key") == "step_000300/continued_2"


def test_a_click_in_the_roll_goes_there(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(write_page(run_with_samples(tmp_path)))
    ready(page)
    wait_until(page, f"Boolean({VIEW}.view)")
    box = page.locator(".ls-head").bounding_box()
    page.mouse.click(box["x"] + 26 + (box["width"] - 26) / 2, box["y"] + 50)
    middle = page.evaluate(f"({VIEW}.view.from + {VIEW}.view.to) / 2")
    assert page.evaluate(f"{VIEW}.player.beat()") == pytest.approx(middle, abs=0.3)


def test_the_blind_test_counts_and_remembers(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(write_page(run_with_samples(tmp_path)))
    ready(page)
    page.click("text=Blind test")
    page.click("text=6 excerpts")
    truths = []
    for trial in range(6):
        wait_until(page, f"{VIEW}.test.done === {trial} && document.querySelector('.ls-answer') && {VIEW}.player.playing")
        truths.append(page.evaluate(f"{VIEW}.test.trials[{trial}].truth"))
        start = page.evaluate(f"{VIEW}.test.trials[{trial}].start")
        assert start >= 8
        right = trial < 4
        said = "Corpus" if (truths[-1] == "corpus") is right else "Model"
        page.click(f"button.ls-answer:has-text('{said}')")
    assert sorted(truths) == ["corpus"] * 3 + ["model"] * 3
    assert "4 of 6 right: 67 %, 95 % interval 30 % to 90 %. Not to be told from guessing yet." in page.inner_text(".ls-blind")
    page.reload()
    ready(page)
    page.click("text=Blind test")
    assert "So far, in this browser: 4 of 6 right" in page.inner_text(".ls-blind")
    page.click("text=Close")
    assert page.is_visible(".ls-roll")


def test_the_interval_is_wilson_s(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(write_page(RunFolder(tmp_path)))
    low, high = page.evaluate("musictrain.blindInterval(8, 10)")
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert page.evaluate("musictrain.blindInterval(0, 0)") == [0, 1]


def test_hostile_names_are_text(open_page: OpenPage, tmp_path: Path) -> None:
    run = run_with_samples(tmp_path, prompt=HOSTILE, rows=1)
    add_sample(run, "step_000150", HOSTILE_FILE, Notes.from_rows([(0, 40, 69)]), prompt=None, step=150)
    page = open_page(write_page(run))
    ready(page)
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert HOSTILE in page.inner_text(".ls-matrix")
    page.evaluate(f"{VIEW}.choose('step_000150/' + {json.dumps(HOSTILE_FILE)})")
    wait_until(page, f"{VIEW}.player.playing && {RMS} > {LOUD}")
    page.evaluate(f"{VIEW}.player.pause()")
    page.click("text=Blind test")
    assert page.evaluate("document.querySelectorAll('img').length") == 0


def test_a_report_plays_without_any_file(open_page: OpenPage, tmp_path: Path) -> None:
    run = run_with_samples(tmp_path / "run")
    page = open_page(write_page(run, tmp_path / "elsewhere" / "report.html", inline=True))
    ready(page)
    page.click(".ls-play")
    wait_until(page, f"{RMS} > {LOUD}")
    assert page.get_attribute(".ls-save", "href").startswith("data:audio/midi;base64,TVRoZ")


def test_it_is_hidden_until_there_are_samples_and_grows_with_them(open_page: OpenPage, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    page = open_page(write_page(run))
    assert page.is_hidden("#here")
    # Both are made before it plays: on a busy machine the music would be over meanwhile.
    first, second = [update(run_with_samples(tmp_path, steps=steps)) for steps in ((150,), (150, 300))]
    page.evaluate(first)
    ready(page)
    page.click("[data-key='step_000150/continued_2']")
    wait_until(page, f"{VIEW}.player.playing")
    page.evaluate(second)
    assert page.locator("thead th").all_inner_texts() == ["prompt", "corpus", "150", "300"]
    assert page.evaluate(f"[{VIEW}.slots.a, {VIEW}.player.playing]") == ["step_000150/continued_2", True]


def test_the_newest_is_offered_until_somebody_has_chosen(open_page: OpenPage, tmp_path: Path) -> None:
    run = run_with_samples(tmp_path, steps=(150,))
    page = open_page(write_page(run))
    ready(page)
    run_with_samples(tmp_path, steps=(150, 300))
    page.evaluate(update(run))
    wait_until(page, f"{VIEW}.slots.a === 'step_000300/continued_1' && {VIEW}.loaded.a > 0")
    page.click("[data-key='step_000150/continued_1']")
    wait_until(page, f"{VIEW}.player.playing")
    page.click(".ls-play")
    add_sample(run, "step_000150", "continued_1", Notes.from_rows([(0, 5, 60)]), prompt="bwv 5.7")
    run_with_samples(tmp_path, steps=(450,))
    page.evaluate(update(run))
    wait_until(page, f"{VIEW}.shapes.a.piece.notes.length === 1")
    assert page.evaluate(f"{VIEW}.slots.a") == "step_000150/continued_1"


@pytest.mark.parametrize("size", [(1400, 900), PHONE])
def test_of_many_steps_only_what_is_seen_is_loaded(open_page: OpenPage, tmp_path: Path, size: tuple[int, int]) -> None:
    run = RunFolder(tmp_path)
    add_sample(run, "step_000000", "from_nothing", Notes.from_rows([(0, 4, 60)]), prompt=None)
    for step in range(1, 50):
        folder = run.samples / f"step_{step:06d}"
        shutil.copytree(run.samples / "step_000000", folder)
        script = folder / "from_nothing.js"
        script.write_text(script.read_text().replace("step_000000", folder.name))
    page = open_page(write_page(run), size=size)
    loaded: set[str] = set()
    page.on("request", lambda request: loaded.add(request.url))
    ready(page)
    wait_until(page, "document.querySelectorAll('.ls-cell canvas').length > 2")
    assert page.evaluate("document.querySelectorAll('.ls-cell').length") == 50
    assert len(loaded) < 25
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate("document.querySelector('.ls-matrix').scrollLeft = 0")
    wait_until(page, "document.querySelector('[data-key=\"step_000000/from_nothing\"] canvas')")


def test_a_roll_that_is_gone_is_said_to_be(open_page: OpenPage, tmp_path: Path) -> None:
    run = run_with_samples(tmp_path)
    (run.samples / "step_000150" / "continued_1.js").unlink()
    page = open_page(write_page(run), allow=("ERR_FILE_NOT_FOUND",))
    ready(page)
    page.click("[data-key='step_000150/continued_1']")
    wait_until(page, "document.querySelector('.ls-where').textContent.includes('cannot be loaded')")
    page.click("[data-key='step_000300/continued_1']")
    wait_until(page, f"{VIEW}.player.playing && {RMS} > {LOUD}")


@pytest.mark.parametrize("alone", [False, True], ids=["live page", "report"])
def test_it_plays_in_the_whole_page_under_its_policy(open_page: OpenPage, tmp_path: Path, alone: bool) -> None:
    run = run_with_samples(tmp_path / "run", prompt=HOSTILE)
    if alone:
        file = write_report(run, tmp_path / "elsewhere.html")
    else:
        page_files.write_page(run)
        page_files.write_data(run, PageData(run).read())
        file = run.dashboard
    page = open_page(file)
    ready(page)
    page.click("[data-key='step_000150/continued_1']")
    wait_until(page, f"{VIEW}.player.playing && {RMS} > {LOUD}")
    with page.expect_download() as download:
        page.click(".ls-save")
    assert Path(download.value.path()).read_bytes() == (run.samples / "step_000150" / "continued_1.mid").read_bytes()
    assert page.evaluate("document.querySelectorAll('img').length") == 0
