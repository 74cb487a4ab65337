"""The files of the live page: ``dashboard.html`` once, ``dashboard_data.js`` again and again, plotly once for all runs.

Opened by a double click, a page may neither fetch nor listen; it may add ``<script src="dashboard_data.js">`` again. So the data is a
script of one call, ``musictrain.update({...})``. A content security policy lets nothing run but the scripts that are written here, by
their hashes, and files; nothing is ever loaded from a network.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import logging
from collections.abc import Iterable, Mapping
from importlib import metadata, util
from pathlib import Path
from typing import Any, NamedTuple

from musictrain.runs.atomic import atomic_write
from musictrain.runs.folder import RunFolder
from musictrain.runs.records import plain

log = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page")
# In the order in which they are loaded; whoever has not been written yet is left out.
STYLES = ("theme.css", "page.css", "listen.css")
SCRIPTS = (
    "base.js",
    "curves.js",
    "chart.js",
    "charts.js",
    "header.js",
    "attention.js",
    "texts.js",
    "player.js",
    "roll.js",
    "blind.js",
    "listen.js",
    "replays.js",
    "page.js",
)
POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; connect-src 'none'; object-src 'none'; "
    "script-src 'self' file: {hashes}; style-src 'unsafe-inline'; img-src 'self' file: data: blob:; media-src 'self' file: data: blob:"
)


class Plotly(NamedTuple):
    """The plotly.js that came with the Python package: where it lies, and what a copy of it is called."""

    path: Path
    name: str


def find_plotly() -> Plotly | None:
    """plotly.js inside the installed package, found without importing it, which would take a second; None if there is none."""
    try:
        found = util.find_spec("plotly")
        version = metadata.version("plotly")
    except (ImportError, ValueError, metadata.PackageNotFoundError):
        return None
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        path = Path(folder) / "package_data" / "plotly.min.js"
        if path.is_file():
            return Plotly(path, f"plotly-{version}.min.js")
    return None


def share_plotly(runs_dir: Path) -> str:
    """Put one copy of plotly.js beside the runs, for all of their pages; its name, or an empty text if there is nothing to copy.

    Raises:
        OSError: if it cannot be written.
    """
    plotly = find_plotly()
    if plotly is None:
        return ""
    copy = runs_dir / plotly.name
    # A copy, not a link: the folder of runs outlives the environment and goes to other machines.
    if not copy.is_file() or copy.stat().st_size != plotly.path.stat().st_size:
        atomic_write(copy, plotly.path.read_bytes(), durable=False)
    return plotly.name


def script_json(value: Any) -> str:
    """JSON that is safe inside a script, and inside a page: pure ASCII, without anything that HTML could take for a tag or an entity.

    >>> script_json({"run": "</script>&"})
    '{"run":"\\\\u003c/script\\\\u003e\\\\u0026"}'
    """
    text = json.dumps(plain(value), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def write_data(run: RunFolder, data: Mapping[str, Any]) -> None:
    """``dashboard_data.js``: whole at any moment, without waiting for the disk.

    Raises:
        OSError: if it cannot be written.
    """
    atomic_write(run.dashboard_data, f"musictrain.update({script_json(data)});\n", durable=False)


def write_page(run: RunFolder) -> None:
    """``dashboard.html``, and plotly.js beside the run folder, or inside it where nobody may write beside it.

    Raises:
        OSError: if the run folder cannot be written.
    """
    try:
        plotly = share_plotly(run.path.parent)
    except OSError as error:
        log.debug("No plotly.js beside %s: %s", run.path, error)
        plotly = share_plotly(run.path)
    atomic_write(run.dashboard, page_html(title=run.name, settings={"run": run.name, "plotly": plotly, "live": True}), durable=False)


def page_html(title: str, settings: Mapping[str, Any], inlined: Iterable[str] = ()) -> str:
    """The page with its styles and scripts inside.

    Args:
        title: of the window.
        settings: what the scripts are told before they start: ``run``, ``plotly`` (the name of the shared copy) and ``live``.
        inlined: further scripts to put inside, in this order, after those of the page.
    """
    scripts = [f"window.musictrainSettings = {script_json(settings)};", *_contents(SCRIPTS), *inlined]
    return fill(
        (PAGE / "page.html").read_text(encoding="utf-8"),
        title=title,
        styles="\n".join(_contents(STYLES)),
        scripts=scripts,
    )


def fill(template: str, *, title: str, styles: str, scripts: Iterable[str]) -> str:
    """A template with ``{{title}}``, ``{{styles}}``, ``{{policy}}`` and ``{{scripts}}`` filled in; the policy knows every script.

    Raises:
        ValueError: if a script holds what would end it early.
    """
    scripts = list(scripts)
    for script in scripts:
        if "</script" in script.lower() or "<!--" in script:
            raise ValueError("A script of the page holds '</script' or '<!--', which would end it early: write it with \\u003c.")
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts)
    parts = {
        "title": html.escape(title),
        "styles": f"<style>\n{styles}\n</style>",
        "policy": html.escape(POLICY.format(hashes=hashes)),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    # One pass from left to right: what was filled in is not looked at again.
    pieces = template.split("{{")
    return pieces[0] + "".join(parts[name] + rest for name, _, rest in (piece.partition("}}") for piece in pieces[1:]))


def _contents(names: Iterable[str]) -> list[str]:
    return [(PAGE / name).read_text(encoding="utf-8") for name in names if (PAGE / name).is_file()]
