"""A search as its driver tells the page of it, and the runs of its trials, for tests of the page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from tests.dashboard.run_folders import make_run

LR, DEPTH, KIND = "model.init_args.optimizer.init_args.lr", "model.init_args.network.init_args.layers", "model.init_args.optimizer"
RUNGS = [100, 300, 900]


def parameters() -> list[dict[str, Any]]:
    """Three settings: one by its logarithm, a whole number, a kind."""
    return [
        {"key": LR, "name": "lr", "told": "loguniform(1e-4, 1e-2)", "log": True},
        {"key": DEPTH, "name": "layers", "told": "2, 4, 6", "log": False},
        {"key": KIND, "name": "optimizer", "told": "AdamW, Lion", "log": False},
    ]


def told(num: int = 27, *, seeds: int = 3, objectives: int = 1, **more: Any) -> dict[str, Any]:
    """A search by halving with so many points, in the second rung; the best one first."""
    drawn = np.random.default_rng(0)
    points = [_point(place, num, seeds, objectives, drawn) for place in range(num)]
    points.sort(key=lambda point: (-point["step"], point["results"][0][0]))
    for place, point in enumerate(points):
        point["rank"] = place + 1
        point["state"] = ("finished", "given up", "given up")[min(place // 3, 2)] if place else "finished"
    _mark_front(points)
    facts = {"state": "going on", "trials": num * seeds, "done": num * seeds - 5, "running": 2, "failed": 1, "reused": 3, "rung": 2}
    facts |= {"slots": 2, "left": [1500.0, 1000.0, 2500.0], "share": 0.6, "elapsed": 4000.0, "rule": "the best of every 3 go on"}
    facts |= {
        "space": f"{num} points, 3 settings",
        "about": "Means over seeds with 90 % intervals.",
        "constraints": [],
        "seeds": [*range(seeds)],
    }
    importance = {"parameters": [{"key": LR, "mean": 0.8, "spread": 0.1}, {"key": DEPTH, "mean": 0.1, "spread": 0.05}]}
    importance |= {"sentence": "A random forest tells it fairly well (R2 0.70, 27 points).", "unsure": False, "about": "After 100 steps."}
    return {
        "objectives": [
            {"metric": "val/loss", "mode": "min", "words": "lowest val/loss"},
            {"metric": "val/groove", "mode": "max", "words": "highest val/groove"},
        ][:objectives],
        **{"parameters": parameters(), "points": points, "failures": [], "importance": importance, "rungs": RUNGS, "facts": facts},
        **more,
    }


def _point(place: int, num: int, seeds: int, objectives: int, drawn: Any) -> dict[str, Any]:
    rate, layers = float(10 ** drawn.uniform(-4, -2)), int(drawn.choice([2, 4, 6]))
    kind = str(drawn.choice(["AdamW", "Lion"]))
    step = RUNGS[2] if place < num // 9 else RUNGS[1] if place < num // 3 else RUNGS[0]
    loss = 0.5 + 0.3 * (math.log10(rate) + 3) ** 2 + 0.02 * layers + 20 / step + float(drawn.normal(0, 0.01))
    groove = float(drawn.uniform(0.5, 0.9))
    results = [[loss, loss - 0.02, loss + 0.02, seeds], [groove, groove - 0.05, groove + 0.05, seeds]][:objectives]
    name = f"{place:08x}"
    trials = [
        {"name": f"{place:04x}{seed:04x}", "run": f"made-{place:04x}{seed:04x}", "seed": seed, "state": "finished"} for seed in range(seeds)
    ]
    values = {LR: rate, DEPTH: layers, KIND: {"class_path": f"musictrain.optim.{kind}"}}
    return {"name": name, "values": values, "state": "", "step": step, "rank": None, "front": False, "results": results, "trials": trials}


def _mark_front(points: list[dict[str, Any]]) -> None:
    if len(points[0]["results"]) < 2:
        points[0]["front"] = True
        return
    for point in points:
        one = [each[0] for each in point["results"]]
        point["front"] = not any(
            other["results"][0][0] <= one[0] and other["results"][1][0] >= one[1] for other in points if other is not point
        )


def write_trials(runs: Path, search: dict[str, Any]) -> None:
    """A run for each trial, with the curves that its point's results come from."""
    for point in search["points"]:
        for trial in point["trials"]:
            end, steps = point["results"][0][0], range(50, point["step"] + 1, 50)
            rows = [
                {"time": float(step), "step": step, "epoch": 0, "attempt": 1, "val/loss": end + 2 * math.exp(-step / 60), "val/groove": 0.5}
                for step in steps
            ]
            make_run(runs / trial["run"], rows=rows, state="finished").dashboard.write_text("")
