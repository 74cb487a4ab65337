"""Where a benchmark keeps its result: one JSON file each, with the machine it was measured on."""

from __future__ import annotations

import json
import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """The facts a reader needs to compare a number with his own."""
    return {
        "date": date.today().isoformat(),
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "lightning": version("lightning"),
    }


def write_result(name: str, values: dict[str, Any]) -> Path:
    """Write ``values`` beside the machine's facts to ``results/<name>.json`` and print them."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    text = json.dumps({**values, "machine": machine()}, indent=2)
    path.write_text(text + "\n")
    print(text)
    return path
