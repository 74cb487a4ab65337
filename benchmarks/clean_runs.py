"""Ten sound runs of Bach's chorales through the command line, with every detector at its default settings: nothing should be said."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.watched_runs import Run, train

RATES = (0.0005, 0.001, 0.002, 0.004, 0.006)
MOST_FALSE = 1


def clean_runs() -> list[Run]:
    """Ten clean ones, everything on: no two have the same seed, and no two of a network the same learning rate."""
    return [
        Run(
            name=f"{network}_{seed}",
            network=network,
            seed=seed,
            lr=lr,
            plays=True,
            processes=2 if lr == RATES[2] else 1,
        )
        for seed, (network, lr) in enumerate(((network, lr) for network in ("voice_frames", "decoder") for lr in RATES), start=1)
    ]


def measured(run: Run, folder: Path) -> dict[str, Any]:
    """What a clean run has said, which should be nothing."""
    told = train(run, folder)
    alerts = [{key: alert.get(key) for key in ("kind", "step", "message")} for alert in told.alerts]
    settings = {"network": run.network, "seed": run.seed, "lr": run.lr, "processes": run.processes}
    return {**settings, **told.how_it_ended(), "alerts": alerts}


def summary(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All together."""
    alerts = Counter(alert["kind"] for run in runs.values() for alert in run["alerts"])
    return {
        "real_runs": len(runs),
        "optimizer_steps_of_real_runs": sum(run["steps"] for run in runs.values()),
        "false_alerts_in_real_runs": alerts.total(),
        "by_kind_in_real_runs": dict(alerts),
        "most_false_alerts_aimed_at": MOST_FALSE,
        "real_runs_not_measured_yet": [run.name for run in clean_runs() if run.name not in runs],
    }


def works(folder: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every run by its name."""
    return {run.name: functools.partial(measured, run, folder) for run in clean_runs()}
