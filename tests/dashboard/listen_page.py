"""A page with nothing but the section in which samples are heard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import musictrain
from musictrain.dashboard.listen import listen_data
from musictrain.listening.rolls import script_json
from musictrain.runs import RunFolder

PAGE = Path(musictrain.__file__).parent / "dashboard" / "page"
STYLES = ("theme.css", "page.css", "listen.css")
SCRIPTS = ("base.js", "player.js", "roll.js", "blind.js", "listen.js")
SHELL = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>listen</title><style>{styles}</style></head>
<body><main class="wide"><section id="listen"><h2>Listen</h2><div id="here"></div></section></main>{scripts}</body></html>"""
START = 'musictrain.sections.listen.init(document.getElementById("here"), {});'
VIEW = "musictrain.sections.listen.view"
RMS = f"""(() => {{ const node = {VIEW}.player.analyser; if (!node) return 0; const wave = new Float32Array(node.fftSize);
node.getFloatTimeDomainData(wave); return Math.sqrt(wave.reduce((sum, x) => sum + x * x, 0) / wave.length); }})()"""
LOUD = 0.005


def texts(names: tuple[str, ...]) -> list[str]:
    return [(PAGE / name).read_text(encoding="utf-8") for name in names if (PAGE / name).is_file()]


def write_page(run: RunFolder, file: Path | None = None, *, inline: bool = False) -> Path:
    """The page of a run, in its folder unless said otherwise."""
    file = file or run.path / "listen.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    scripts = [*texts(SCRIPTS), START, update(run, inline=inline)]
    shell = SHELL.format(styles="\n".join(texts(STYLES)), scripts="".join(f"<script>{script}</script>" for script in scripts))
    file.write_text(shell, encoding="utf-8")
    return file


def update(run: RunFolder, *, inline: bool = False) -> str:
    """The script that tells the page of the run's samples."""
    return f"musictrain.sections.listen.update({script_json(listen_data(run, inline=inline))});"


def wait_until(page: Any, condition: str) -> None:
    """Until an expression of JavaScript holds; Playwright's patience ends it."""
    page.wait_for_function(f"() => {condition}")


def ready(page: Any) -> None:
    """Until there is something to play."""
    wait_until(page, f"{VIEW}?.shapes.a !== undefined")  # the view itself comes with the first data
