"""Finding a teacher, loading it, and refusing one that cannot teach this run, before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from musictrain.checkpoints.chosen_version import find_version
from musictrain.checkpoints.stored_network import NetworkError, stored_network
from musictrain.contract import check_alignment, check_context, network_vocab_size
from musictrain.distillation.settings import Distillation
from musictrain.distillation.teacher import DTYPES, Teacher
from musictrain.runs import RunFolder


class TeacherError(ValueError):
    """A teacher that cannot be had, or cannot teach this run; the message says why, and what would do."""


def load_teacher(settings: Distillation, trainer: Trainer, text: str | None = None) -> Teacher:
    """The teacher that the settings name, on every process the same; all have to call it.

    Args:
        settings: whom to look for, and where.
        trainer: of the student.
        text: whom to look for instead.

    Raises:
        TeacherError: if there is none, it is this very run, or it cannot be built.
        BrokenCheckpointError: if its version is damaged.
    """
    # Collective calls: every process makes them. The first one decides, since others may look a moment later.
    own = trainer.log_dir
    run_path, version = trainer.strategy.broadcast(_found(settings, own, text) if trainer.is_global_zero else ("", ""))
    if not version:
        raise TeacherError(f"There is no teacher. {run_path}")
    run = RunFolder(Path(run_path)) if run_path else None
    datamodule = getattr(trainer, "datamodule", None)
    try:
        # Its weights are drawn before they are replaced; nobody else's chance is taken for that.
        with torch.random.fork_rng(devices=[]):
            stored = stored_network(run, Path(version), getattr(datamodule, "vocab_size", None))
    except (NetworkError, FileNotFoundError) as error:
        raise TeacherError(f"The teacher cannot be loaded. {error}") from error
    return Teacher(stored, settings.precision or precision_of_run(trainer))


def _found(settings: Distillation, own: str | None, text: str | None) -> tuple[str, str]:
    """Folder of the run (empty for a file outside of any) and path of the version; or why there is none, and an empty path."""
    try:
        run, version = find_version(text or settings.teacher, runs_dir_of(settings, own))
    except ValueError as error:
        return f"{error} The key is model.distillation.teacher.", ""
    if run is not None and own is not None and run.path.resolve() == Path(own).resolve():
        return f"{settings.teacher!r} means this very run: name the run to learn from, or one of its versions.", ""
    return str(run.path) if run is not None else "", str(version)


def runs_dir_of(settings: Distillation, own: str | None) -> Path:
    """Where teachers are looked for."""
    if settings.runs is not None:
        return Path(settings.runs).expanduser()
    if own is not None and RunFolder(Path(own)).is_run():
        return Path(own).parent
    return Path(os.environ.get("MUSICTRAIN_RUNS", "runs"))


def precision_of_run(trainer: Trainer) -> str:
    """The run's own precision, for the teacher too."""
    precision = str(trainer.precision)
    number, _, kind = precision.partition("-")
    return precision if number in DTYPES and kind in ("true", "mixed") else "32-true"


def check_teacher(teacher: Teacher, student_vocab: int, datamodule: Any) -> None:
    """Refuse a teacher that reads other tokens or other windows than the student.

    Raises:
        TeacherError: if its tokenizer or its vocabulary is another.
        ValueError: if the windows are too long for it, or start where it cannot count from.
    """
    tokenizer, theirs = getattr(datamodule, "tokenizer", None), teacher.stored.tokenizer
    if tokenizer is not None and theirs and theirs.get("fingerprint") != tokenizer.fingerprint:
        run = teacher.stored.run
        where = f" (they stand in {run.tokenizer})" if run is not None else ""
        raise TeacherError(
            f"The teacher ({teacher.name}) was trained with the tokenizer {theirs.get('name')} ({theirs.get('fingerprint')}), and this "
            f"run reads {tokenizer.name} ({tokenizer.fingerprint}): its opinions are on other tokens. Give data.tokenizer the teacher's "
            f"settings{where}; or learn from its music, which any tokenizer reads: "
            f"musictrain distill-corpus {run.name if run is not None else 'RUN'} --to FOLDER"
        )
    if (width := network_vocab_size(teacher.network)) != student_vocab:
        raise TeacherError(
            f"The teacher ({teacher.name}) predicts over {width} tokens, and the student over {student_vocab}: both must be over the same."
        )
    try:
        check_context(teacher.network, getattr(datamodule, "window", None))
        check_alignment(teacher.network, getattr(datamodule, "packing", None), getattr(datamodule, "align", None))
    except ValueError as error:
        raise TeacherError(f"The teacher ({teacher.name}) cannot read what the student reads. {error}") from error
