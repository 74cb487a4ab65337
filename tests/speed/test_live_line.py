"""A line that changes: on a terminal, in a notebook, as plain lines."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from musictrain.runs.eta import TimeLeft
from musictrain.runs.standing import Standing
from musictrain.speed.live_line import PlainLines, TerminalLine, as_html, bar_of, live_console, new_display, with_bar
from tests.speed.screen import screen_of, written_on_a_terminal

STANDING = Standing(400, 1000, 80.0, TimeLeft(120, 100, 140), {"train/loss": 1.5})
LINE = "step 400/1,000   40 %  loss 1.5  1 min 20 s elapsed  2 min 0 s left (1 min 40 to 2 min 20)"

SCRIPT = """
import logging, sys, time
handler = logging.StreamHandler()                 # holds the standard error of now
logging.getLogger("somebody").addHandler(handler)
from musictrain.runs.eta import TimeLeft
from musictrain.runs.standing import Standing
from musictrain.speed.live_line import live_console, new_display

step = 0
display = new_display(lambda: Standing(step, 40, step, TimeLeft(120, 100, 140), {"train/loss": 1.5}))
for step in range(1, 41):
    time.sleep(0.01)
    if step == 5:
        print("printed")
    if step == 10:
        print("complained", file=sys.stderr)
    if step == 15:
        logging.getLogger("somebody").warning("logged")
    if step == 20:
        live_console().print("asked for the console")
    if step == 25:
        display.print("by the bar", "itself", sep=", ")
    if step == 30:
        display.keep()
    display.redraw() if step != 40 else None
display.close()
display.close()
print("after", live_console(), handler.stream is sys.stderr)
"""


@pytest.fixture
def script(tmp_path: Path) -> list[str]:
    path = tmp_path / "shows.py"
    path.write_text(SCRIPT)
    return [sys.executable, str(path)]


@pytest.mark.parametrize("columns", [100, 40])
def test_a_person_sees_one_line_and_above_it_whatever_else_was_written(script: list[str], columns: int, repository: Path) -> None:
    written = written_on_a_terminal(script, columns, {"PYTHONPATH": str(repository)})
    seen = [line for line in screen_of(written, columns) if line]
    kept = Standing(30, 40, 30, TimeLeft(120, 100, 140), {"train/loss": 1.5}).line(columns - 1)
    assert seen == ["printed", "complained", "logged", "asked for the console", "by the bar, itself", kept, "after None True"]
    # While it ran there was one line below all that: here is the screen before the line makes room for another one.
    during = screen_of(written[: written.rindex("\r\033[2K", 0, written.index("asked for"))], columns)
    assert [line for line in during if line][:-1] == ["printed", "complained", "logged"]
    assert sum("step " in line for line in during) == 1
    assert max(map(len, during)) <= columns
    assert written.count("\033[?25l") == written.count("\033[?25h"), "the cursor is given back"


def test_a_terminal_that_changes_its_width_is_followed(repository: Path) -> None:
    resizes = (
        "import fcntl, struct, termios\nfrom musictrain.speed.live_line import *\n"
        "d = new_display(lambda: Standing(3, 9, 2, values={'loss': 1.0, 'val_loss': 2.0}))\n"
        "for columns in (100, 30, 60):\n"
        "    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))\n    print('now', columns)\n    d.redraw()\n"
        "d.close()\n"
    )
    written = written_on_a_terminal([sys.executable, "-c", resizes], 100, {"PYTHONPATH": str(repository)})
    parts = re.split(r"now \d+", written)[1:]
    lengths = [max(len(re.sub(r"\033\[[\d;?]*\w", "", line)) for line in re.split(r"[\r\n]+", part)) for part in parts]
    assert lengths[1] <= 30 < lengths[2] < 60 < lengths[0] < 100


def test_no_colour_where_none_is_wanted(script: list[str], repository: Path) -> None:
    colour = re.compile(r"\033\[[\d;]*3[0-7]m")
    assert colour.search(written_on_a_terminal(script, 100, {"PYTHONPATH": str(repository)}))
    assert not colour.search(written_on_a_terminal(script, 100, {"PYTHONPATH": str(repository), "NO_COLOR": "1"}))


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(script: list[str], repository: Path) -> None:
    plain = "from musictrain.speed.live_line import *; d = new_display(lambda: Standing(3, 9, 2)); print(type(d).__name__); d.keep()"
    written = written_on_a_terminal([sys.executable, "-c", plain], 100, {"PYTHONPATH": str(repository), "TERM": "dumb"})
    assert written.splitlines() == ["PlainLines", "step 3/9   33 %  2 s elapsed"]


def test_a_file_gets_plain_lines() -> None:
    stream = io.StringIO()
    display = new_display(lambda: STANDING, stream)
    display.redraw()
    display.print("between", end="|\n")
    display.keep()
    assert stream.getvalue().splitlines() == [LINE, "between|", LINE]
    assert (display.redraw_seconds, display.redraws_stay) == (10.0, True)


def test_nothing_to_show_shows_nothing() -> None:
    stream = io.StringIO()
    PlainLines(lambda: None, stream).keep()
    assert stream.getvalue() == ""


@pytest.mark.parametrize("width", [20, 39, 79, 95, 110, 200])
def test_the_bar_takes_the_room_that_is_left(width: int) -> None:
    line = with_bar(STANDING, width).plain
    assert len(line) <= width
    bars = re.findall("[━─]+", line)
    assert [len(bar) <= 24 for bar in bars] == ([True] if width >= 110 else bars and [True])
    if bars:
        assert bars[0].count("━") == int(0.4 * len(bars[0]))
    assert re.sub(r"  [━─]+", "", line) == STANDING.line(width)
    assert (bar_of(0, 4), bar_of(1, 4)) == ("────", "━━━━")


def test_a_line_that_cannot_be_drawn_harms_nothing() -> None:
    def look() -> Standing:
        raise KeyError("step")

    stream = io.StringIO()
    line = TerminalLine(look, stream, redirect=False)
    assert isinstance(live_console(), Console)
    line.redraw()
    line.close()
    assert live_console() is None
    assert "KeyError" not in stream.getvalue()


def test_a_terminal_without_such_letters_gets_others(repository: Path) -> None:
    shows = "from musictrain.speed.live_line import *; d = new_display(lambda: Standing(3, 9, 2)); d.close(); print('done')"
    environment = {"PYTHONPATH": str(repository), "PYTHONIOENCODING": "latin-1"}
    written = written_on_a_terminal([sys.executable, "-c", shows], 100, environment)
    assert re.search(r"#{8}\S*-{16}", re.sub(r"\033\[[\d;]*m", "", written))
    assert screen_of(written, 100)[0] == "done"


def test_a_forked_worker_prints_past_the_line(script: list[str], tmp_path: Path, repository: Path) -> None:
    forks = (
        "import os, sys\nfrom musictrain.speed.live_line import *\n"
        "d = new_display(lambda: Standing(3, 9, 2))\n"
        "if not (child := os.fork()):\n    print(type(sys.stdout).__name__, live_console(), flush=True)\n    os._exit(0)\n"
        "os.waitpid(child, 0)\nd.close()\n"
    )
    assert "TextIOWrapper None" in written_on_a_terminal([sys.executable, "-c", forks], 100, {"PYTHONPATH": str(repository)})


def test_a_notebook_gets_words_that_are_escaped() -> None:
    page = as_html(Standing(1, 2, 3, state="<b>"))
    assert "&lt;b&gt;" in page
    assert '<progress value="0.5000" max="1">' in page


def run_in_a_notebook(source: str, folder: Path) -> list[dict[str, Any]]:
    """The outputs of a cell."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return json.loads(nbformat.writes(notebook))["cells"][0]["outputs"]


def test_a_notebook_shows_one_line_that_changed_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(repository))
    source = (
        "from musictrain.speed.live_line import *\nstep = 0\nd = new_display(lambda: Standing(step, 9, 2))\n"
        "for step in range(10):\n    d.redraw()\nd.print('printed')\nd.keep()\nd.close()\ntype(d).__name__"
    )
    shown, printed, kind = run_in_a_notebook(source, tmp_path)
    assert "".join(shown["data"]["text/plain"]) == "step 9/9  100 %  2 s elapsed"
    assert 'value="1.0000"' in "".join(shown["data"]["text/html"])
    assert "".join(printed["text"]) == "printed\n"
    assert "NotebookLine" in kind["data"]["text/plain"][0]


def test_looking_at_displays_imports_neither_torch_nor_rich(repository: Path) -> None:
    code = "import sys, musictrain.speed.live_line, musictrain.speed.eta_clock; print({'torch', 'rich', 'lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=300)
    assert done.stdout == "set()\n", done.stderr
