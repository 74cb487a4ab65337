"""The page's files: scripts that end where they should, a policy that knows each of them, one plotly for all runs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.dashboard import page_files
from musictrain.dashboard.page_files import fill, find_plotly, page_html, script_json, share_plotly, write_data, write_page
from musictrain.dashboard.report import report_html, write_report
from musictrain.runs.folder import RunFolder
from tests.dashboard.run_folders import HOSTILE, make_run


class Scripts(HTMLParser):
    """What a browser would find: the contents of script elements, the policy, and other elements by name."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.policy = ""
        self.title = ""
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        if tag == "meta" and found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"] or ""
        if tag == "script":
            assert not found, "a script from elsewhere"
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.scripts and data.strip():
            self.scripts[-1] += data
        if self.lasttag == "title":
            self.title += data


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_script_json_is_json_that_no_html_can_end(value: object) -> None:
    text = script_json(value)
    assert json.loads(text) == value
    assert text.isascii()
    assert not re.search("[<>&\x00-\x1f\x7f]", text)


def test_the_policy_knows_every_script_and_nothing_else(tmp_path: Path) -> None:
    page = Scripts(page_html(HOSTILE, {"plotly": HOSTILE, "live": True}))
    hashes = re.findall(r"'sha256-([^']+)'", page.policy)
    assert [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts] == hashes
    assert len(hashes) >= 5
    assert page.title.strip() == HOSTILE.strip()
    assert "img" not in page.tags
    assert "'unsafe-inline'" not in page.policy.split("script-src")[1].split(";")[0]
    assert "connect-src 'none'" in page.policy


def test_a_script_that_would_end_early_is_refused() -> None:
    with pytest.raises(ValueError, match="would end it early"):
        fill("{{scripts}}", title="", styles="", scripts=["'</SCRIPT>'"])


def test_what_was_filled_in_is_not_filled_again() -> None:
    assert fill("<title>{{title}}</title>{{styles}}", title="{{styles}}{{", styles="s{{title}}", scripts=[]) == (
        "<title>{{styles}}{{</title><style>\ns{{title}}\n</style>"
    )


def test_one_plotly_serves_all_runs(tmp_path: Path) -> None:
    plotly = find_plotly()
    assert plotly is not None
    for name in ("one", "two"):
        write_page(make_run(tmp_path / name))
    copies = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("plotly*"))
    assert copies == [plotly.name]
    assert (tmp_path / plotly.name).read_bytes() == plotly.path.read_bytes()
    assert not (tmp_path / plotly.name).is_symlink()
    assert (tmp_path / plotly.name).stat().st_nlink == 1


def test_half_a_plotly_is_copied_again(tmp_path: Path) -> None:
    name = share_plotly(tmp_path)
    (tmp_path / name).write_bytes(b"half")
    assert share_plotly(tmp_path) == name
    assert (tmp_path / name).stat().st_size > 1_000_000


def test_without_plotly_the_page_and_the_report_are_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_files.util, "find_spec", lambda name: None)
    run = make_run(tmp_path / "run")
    write_page(run)
    assert '"plotly":""' in run.dashboard.read_text(encoding="utf-8")
    assert list(tmp_path.glob("plotly*")) == []


def test_where_nobody_may_write_beside_the_run_plotly_lies_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    share = page_files.share_plotly

    def share_inside(folder: Path) -> str:
        if folder == tmp_path:
            raise PermissionError("read-only")
        return share(folder)

    monkeypatch.setattr(page_files, "share_plotly", share_inside)
    write_page(run)
    assert len(list(run.path.glob("plotly*"))) == 1


def test_the_data_file_is_one_call(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_data(run, {"run": HOSTILE, "value": float("nan")})
    text = run.dashboard_data.read_text(encoding="ascii")
    match = re.fullmatch(r"musictrain\.update\((.*)\);\n", text)
    assert match is not None
    assert json.loads(match[1]) == {"run": HOSTILE, "value": "NaN"}


def test_a_report_holds_everything(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    out = write_report(run, tmp_path / "elsewhere.html")
    assert not run.report.exists()
    page = Scripts(out.read_text(encoding="utf-8"))
    assert any("plotly.js" in script[:300] for script in page.scripts)
    assert any(script.startswith("musictrain.update(") for script in page.scripts)


def test_a_hostile_run_is_text_in_the_report(tmp_path: Path) -> None:
    rows = [{"time": 1.0, "step": 1, HOSTILE: 1.0}]
    page = Scripts(report_html(make_run(tmp_path / "a<b>&'c", rows=rows, config={HOSTILE: HOSTILE}, log=HOSTILE, reason=HOSTILE)))
    assert "img" not in page.tags
    assert "b" not in page.tags
    assert page.title.strip() == "a<b>&'c"
