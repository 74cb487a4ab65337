"""Real runs through the command line that music is to stop: a few of Bach's chorales, and a network that knows them by heart at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from musictrain.callbacks import MusicalEarlyStopping
from musictrain.checkpoints.catalog import best_versions, list_versions
from musictrain.data import load_corpus
from musictrain.data.midi import write_midi
from musictrain.runs import RunFolder
from musictrain.runs.folder import BEST_METRIC
from musictrain.runs.rows import read_rows
from musictrain.runs.status import Status, read_status

TIMEOUT_SECONDS = 1_200
SHORTEST_BEATS = 32.0
# Six pieces of four bars at each validation; only what is copied is written.
PLAYED = {"num_scored": 6, "num": 0, "continuations": 0, "beats": 16.0, "min_beats": 8.0}
SCORE = "musictrain.callbacks.SampleAndScore"
STOP = "musictrain.callbacks.MusicalEarlyStopping"


@dataclass(frozen=True)
class Ended:
    """A run that has ended: its exit status, all it has printed, and its folder."""

    exit_status: int
    printed: str
    run: RunFolder

    @property
    def status(self) -> Status:
        """What it has written down of itself."""
        status = read_status(self.run.status)
        assert status is not None, self.printed
        return status

    @property
    def values(self) -> dict[str, dict[int, float]]:
        """What was logged, by name and step."""
        values: dict[str, dict[int, float]] = {}
        for row in read_rows(self.run.metrics):
            for name, value in row.items():
                if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("time", "step", "epoch", "attempt"):
                    values.setdefault(name, {})[row["step"]] = value
        return values

    @property
    def vetoed_steps(self) -> list[int]:
        """Steps of the versions that are never called best."""
        return sorted(version.step for version in list_versions(self.run.checkpoints) if version.vetoed)

    @property
    def best_step(self) -> int | None:
        """Step of the best version; None if every one was vetoed, or there is none."""
        best = best_versions(list_versions(self.run.checkpoints), BEST_METRIC)[:1]
        return best[0].step if best else None

    def scores(self, step: int) -> dict[str, Any]:
        """``scores.json`` of a step."""
        told: dict[str, Any] = json.loads((self.run.samples_at(step) / "scores.json").read_text(encoding="utf-8"))
        return told

    def decision(self) -> dict[str, Any]:
        """What a resume must not change."""
        status = self.status
        return {
            "exit_status": self.exit_status,
            "state": status.state,
            "stopped_at": status.step,
            "reason": status.reason,
            "best_step": self.best_step,
            "vetoed_steps": self.vetoed_steps,
        }


class KillAt(Callback):
    """Kills its process, as ``kill -9`` does; one that was resumed is left alone.

    Args:
        step: optimizer steps done.
        when: ``training``, before the next step; ``validation``, before its version is saved; or ``end``, when all is saved and the last
            samples are to be played.
    """

    def __init__(self, step: int, when: str = "training") -> None:
        self.step, self.when = step, when

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Between two steps."""
        self._kill(trainer, "training")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writers come later."""
        if not trainer.sanity_checking:
            self._kill(trainer, "validation")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All is saved, but the run has not been closed."""
        self._kill(trainer, "end")

    def _kill(self, trainer: Trainer, when: str) -> None:
        if when == self.when and trainer.global_step >= self.step and trainer.ckpt_path is None:
            if when != "validation":
                assert trainer.strategy.checkpoint_io.wait(60.0)  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGKILL)


class TellEnd(Callback):
    """Each process writes down where and why it stopped, and what its weights have come to.

    Args:
        folder: of the files, ``rank_0.json`` and so on.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One file a process."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        (stopping,) = [callback for callback in callbacks if isinstance(callback, MusicalEarlyStopping)]
        weights = sum(float(parameter.detach().double().abs().sum()) for parameter in pl_module.parameters())
        told = {"stopped_at": trainer.global_step, "reason": stopping.stop_reason, "weights": weights}
        (self.folder / f"rank_{trainer.global_rank}.json").write_text(json.dumps(told))


def write_few_chorales(folder: Path, num_train: int = 4, num_valid: int = 8) -> Path:
    """The shortest of the built-in chorales as a folder of MIDI files with train/ and valid/, none shorter than the samples."""
    corpus = load_corpus("chorales", progress=False)
    for split, num in (("train", num_train), ("valid", num_valid)):
        long_enough = [piece for piece in corpus.split(split) if piece.notes.end >= SHORTEST_BEATS]
        (folder / split).mkdir(parents=True)
        for piece in sorted(long_enough, key=lambda piece: (piece.notes.end, piece.name))[:num]:
            write_midi(piece.notes, folder / split / f"{piece.name}.mid")
    return folder


def recipe(corpus: Path | str, scoring: Mapping[str, Any], stopping: Mapping[str, Any], **trainer: Any) -> dict[str, Any]:
    """A configuration as ``fit`` reads it: a small decoder without dropout on untransposed pieces, all that makes a network copy.

    Args:
        corpus: a folder or a name.
        scoring: what SampleAndScore has beside its defaults.
        stopping: what MusicalEarlyStopping has.
        trainer: of its settings, what is other than here.
    """
    network = {"d_model": 64, "num_layers": 2, "num_heads": 2, "dropout": 0.0, "max_context": 640}
    callbacks = [
        # All the time it takes, so that how busy the machine is does not decide which validation is scored.
        {"class_path": SCORE, "init_args": {"most_share": 1.0, **PLAYED, **scoring}},
        {"class_path": STOP, "init_args": dict(stopping)},
        {"class_path": "musictrain.callbacks.VersionedCheckpoint", "init_args": {"newest": 99, "every_n_minutes": 0.0}},
    ]
    few = {"max_steps": 200, "max_epochs": -1, "val_check_interval": 10, "check_val_every_n_epoch": None, "log_every_n_steps": 5}
    return {
        "seed_everything": 1,
        "trainer": {"accelerator": "cpu", "precision": "32-true", "gradient_clip_val": 1.0, **few, "callbacks": callbacks, **trainer},
        "model": {
            "class_path": "musictrain.MusicModule",
            "init_args": {
                "network": {"class_path": "musictrain.Decoder", "init_args": network},
                "optimizer": {"class_path": "musictrain.optim.AdamW", "init_args": {"lr": 0.005, "weight_decay": 0.0}},
                "schedule": {"class_path": "musictrain.optim.Constant", "init_args": {"warmup_steps": 5}},
            },
        },
        "data": {
            "class_path": "musictrain.MusicDataModule",
            "init_args": {
                "corpus": str(corpus),
                "tokenizer": {
                    "class_path": "musictrain.VoiceGrid",
                    "init_args": {"lowest": 36, "highest": 81, "steps_per_beat": 2},
                },
                "window": 264,
                "batch_size": 4,
                "packing": False,
                "transpose": [0, 0],
            },
        },
    }


def with_callback(config: Mapping[str, Any], kind: type[Callback], **settings: Any) -> dict[str, Any]:
    """The configuration with one callback more, which writers come after."""
    trainer = config["trainer"]
    more = {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": settings}
    return {**config, "trainer": {**trainer, "callbacks": [*trainer["callbacks"], more]}}


def fit(config: Mapping[str, Any], folder: Path, name: str, *options: str) -> Ended:
    """``python -m musictrain fit`` in a process of its own, its run in ``folder``; one that was done there before is only read."""
    folder.mkdir(parents=True, exist_ok=True)
    if (ended := ended_before(folder, name)) is not None:
        return ended
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    done = type_command("fit", "--config", str(file), "--runs", str(folder), "--name", name, *options)
    runs = [path for path in folder.iterdir() if path.is_dir() and f"-{name}-" in path.name]
    if len(runs) != 1:
        raise RuntimeError(f"The fit {name} made {len(runs)} run folders, expected one:\n{done.stdout}\n{done.stderr}")
    return noted(Ended(done.returncode, done.stdout + done.stderr, RunFolder(runs[0])), folder, name)


def resume(run: RunFolder, *options: str) -> Ended:
    """``python -m musictrain resume`` of a run; as ``fit``."""
    folder, name = run.path.parent, f"{run.name}.resumed"
    if (ended := ended_before(folder, name)) is not None:
        return ended
    done = type_command("resume", str(run.path), *options)
    return noted(Ended(done.returncode, done.stdout + done.stderr, run), folder, name)


def noted(ended: Ended, folder: Path, name: str) -> Ended:
    """What ended, written down so that it need not be done again."""
    told = {"exit_status": ended.exit_status, "printed": ended.printed, "run": ended.run.name}
    (folder / f"{name}.json").write_text(json.dumps(told), encoding="utf-8")
    return ended


def ended_before(folder: Path, name: str) -> Ended | None:
    """What was noted, if anything was."""
    file = folder / f"{name}.json"
    if not file.exists():
        return None
    told = json.loads(file.read_text(encoding="utf-8"))
    return Ended(told["exit_status"], told["printed"], RunFolder(folder / told["run"]))


def type_command(*words: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, one thread, from the repository's root so that this file can be imported there."""
    root = Path(__file__).resolve().parent.parent
    path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH", ""))))
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "NO_COLOR": "1"}
    command: Sequence[str] = (sys.executable, "-m", "musictrain", *words)
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, env=settings, check=False)
