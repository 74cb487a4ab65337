"""Real runs of Bach's chorales that AnomalyAlerts watches: the recipes of the command line with small networks, a minute each on one core.

What a run has come to is kept at once in the result's file, run by run: a benchmark that was interrupted goes on where it was.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from benchmarks.results_file import RESULTS, machine
from benchmarks.stopping_runs import Ended, fit
from musictrain.health import DETECTORS
from musictrain.runs import atomic_write
from musictrain.runs.records import read_records

LOWEST, HIGHEST = 36, 81
STEPS, VALIDATE_EVERY = 300, 50
DATA = {"window": 384, "batch_size": 6, "packing": False, "align": 64, "transpose": [-6, 6], "valid_window": 4096}
NETWORKS: dict[str, dict[str, Any]] = {
    "voice_frames": {
        "class_path": "musictrain.VoiceFrames",
        "init_args": {
            **{"lowest": LOWEST, "highest": HIGHEST, "embedding": 64, "hidden": 96, "num_layers": 1, "head_hidden": 96},
            "dropout": 0.2,
        },
    },
    "decoder": {
        "class_path": "musictrain.Decoder",
        "init_args": {"d_model": 64, "num_layers": 2, "num_heads": 2, "dropout": 0.1, "max_context": 4096},
    },
}
SILENT = {"class_path": "musictrain.callbacks.WriteSamples", "init_args": {"num": 0, "continuations": 0}}
# Some seconds of music at each validation, so that it is judged too.
PLAYED = {
    "class_path": "musictrain.callbacks.SampleAndScore",
    "init_args": {
        **{"num_scored": 6, "num": 0, "continuations": 0, "beats": 16.0, "min_beats": 8.0, "most_share": 1.0, "top_p": 0.95},
        "copy_bars": 2,
    },
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is trained, and what is in its way.

    Args:
        name: one word without hyphens.
        network: one of ``NETWORKS``.
        processes: 1, or more under DDP.
        seed: of everything.
        lr: peak of the learning rate.
        steps: optimizer steps.
        plays: whether samples are scored at validations.
        alerts: settings of AnomalyAlerts.
        callbacks: further ones: class and arguments.
        data: the data module's class where it is another, and further arguments.
    """

    name: str
    network: str = "voice_frames"
    processes: int = 1
    seed: int = 1
    lr: float = 0.002
    steps: int = STEPS
    plays: bool = False
    alerts: Mapping[str, Any] | None = None
    callbacks: Sequence[tuple[type[Callback], Mapping[str, Any]]] = ()
    data: tuple[str, Mapping[str, Any]] = ("musictrain.MusicDataModule", {})

    def config(self) -> dict[str, Any]:
        """As ``fit`` reads it."""
        callbacks = [PLAYED if self.plays else SILENT, *(named(kind, **options) for kind, options in self.callbacks)]
        if self.alerts:
            callbacks.append({"class_path": "musictrain.callbacks.AnomalyAlerts", "init_args": dict(self.alerts)})
        spread = {"devices": self.processes, "strategy": "ddp"} if self.processes > 1 else {"devices": 1}
        kind, options = self.data
        tokenizer = {"class_path": "musictrain.VoiceGrid", "init_args": {"lowest": LOWEST, "highest": HIGHEST, "steps_per_beat": 4}}
        return {
            "seed_everything": self.seed,
            "trainer": {
                **{"accelerator": "cpu", "precision": "32-true", "gradient_clip_val": 1.0, **spread},
                **{"max_steps": self.steps, "max_epochs": -1, "check_val_every_n_epoch": None, "val_check_interval": VALIDATE_EVERY},
                "log_every_n_steps": 10,
                "callbacks": callbacks,
            },
            "model": {
                "class_path": "musictrain.MusicModule",
                "init_args": {
                    "network": NETWORKS[self.network],
                    "optimizer": {"class_path": "musictrain.optim.AdamW", "init_args": {"lr": self.lr, "weight_decay": 0.05}},
                    "schedule": {"class_path": "musictrain.optim.WarmupCosine", "init_args": {"warmup_steps": 30, "final_fraction": 0.02}},
                },
            },
            "data": {"class_path": kind, "init_args": {"corpus": "chorales", "tokenizer": tokenizer, **DATA, **options}},
        }


def named(kind: type[Callback], **options: Any) -> dict[str, Any]:
    """A callback as a configuration names it."""
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": options}


@dataclass(frozen=True)
class Told:
    """What a run that has ended has said of itself."""

    ended: Ended

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """All that it has written down."""
        return list(read_records(self.ended.run.events))

    @property
    def alerts(self) -> list[dict[str, Any]]:
        """Those that a detector has raised."""
        return [event for event in self.events if event["event"] == "alert" and event.get("kind") in DETECTORS]

    @property
    def val_loss(self) -> float:
        """Of the last validation, nats per token."""
        losses = self.ended.values.get("val/loss", {})
        return losses[max(losses)] if losses else float("nan")

    def how_it_ended(self) -> dict[str, Any]:
        """Where, why, how well, and how often it went back meanwhile."""
        status = self.ended.status
        back = [event for event in self.events if event["event"] == "rolled_back"]
        return {
            "exit_status": self.ended.exit_status,
            "state": status.state,
            "steps": status.step,
            "val_loss": round(self.val_loss, 5),
            **({"reason": status.reason} if status.reason else {}),
            **({"went_back": [{key: each[key] for key in ("step", "to", "passed_over", "kind")} for each in back]} if back else {}),
        }


def train(run: Run, folder: Path) -> Told:
    """The run by the command line, in a process of its own; what another one of that name has left unfinished is removed."""
    if not (folder / f"{run.name}.json").exists():
        for left in folder.glob(f"*-{run.name}-*"):
            shutil.rmtree(left)
    return Told(fit(run.config(), folder, run.name))


class Results:
    """The runs of a result's file; each is written down as soon as it has ended.

    Args:
        name: of the file.
        again: whether to forget what is in it.
    """

    def __init__(self, name: str, *, again: bool = False) -> None:
        self.path = RESULTS / f"{name}.json"
        if again and self.path.is_file():
            self._write({**self._read(), "runs": {}})
        self._lock = threading.Lock()

    @property
    def runs(self) -> dict[str, dict[str, Any]]:
        """What is known of each run, also from another program that measures at the same time."""
        return dict(self._read().get("runs", {}))

    def forget(self, names: Sequence[str]) -> None:
        """Let these runs be measured again."""
        self._write({**self._read(), "runs": {name: told for name, told in self.runs.items() if name not in names}})

    def _read(self) -> dict[str, Any]:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}

    def _write(self, values: Mapping[str, Any]) -> None:
        atomic_write(self.path, json.dumps(values, indent=2) + "\n")

    def measure(self, works: Mapping[str, Callable[[], dict[str, Any]]], at_once: int = 1) -> None:
        """Do what is not there yet, so many at once; one that fails says so and stops no other."""
        there = self.runs
        left = {name: work for name, work in works.items() if name not in there}
        print(f"{len(works) - len(left)} of {len(works)} runs are there already.", flush=True)
        with ThreadPoolExecutor(at_once) as pool:
            futures = {pool.submit(work): name for name, work in left.items()}
            for future in as_completed(futures):
                try:
                    self._keep(futures[future], future.result())
                except Exception as error:
                    print(f"{futures[future]} failed: {error}", flush=True)

    def _keep(self, name: str, told: dict[str, Any]) -> None:
        with self._lock:
            self.write({}, {name: told})
        print(f"{name}: {json.dumps(told)}", flush=True)

    def write(self, values: Mapping[str, Any], runs: Mapping[str, Any] | None = None) -> None:
        """The file anew, with further values and further runs."""
        before = self._read()
        together = dict(sorted({**before.get("runs", {}), **(runs or {})}.items()))
        before.pop("runs", None)
        before.pop("machine", None)
        self._write({**before, **values, "runs": together, "machine": machine()})
