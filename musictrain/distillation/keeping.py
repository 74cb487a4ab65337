"""Asking a teacher once for a whole corpus, and keeping what it says.

What can be kept depends on the place alone, and the same place comes in many rows. So the teacher reads each piece from its beginning, in
consecutive windows of the data's ``valid_window``, and a row that begins in the middle of a piece gets opinions of a teacher that knows
what came before it. Rows must hold one piece each; where they are transposed, whole pieces: a piece is then read in every key it may come
in. The work is kept part by part: what was killed goes on where it was, and processes that want the same share it.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray

from musictrain.data.corpora import cache_root
from musictrain.data.evaluation_batches import EvaluationPlan
from musictrain.data.first_process import build_first
from musictrain.data.reading_progress import reading_progress
from musictrain.data.token_shards import token_dtype
from musictrain.data.token_store import TokenStore, digest_of, digest_of_meta
from musictrain.data.transposition import Transposer
from musictrain.distillation.kept_opinions import FILES, FORMAT, KeptOpinions, OpinionsError
from musictrain.distillation.settings import Distillation
from musictrain.distillation.teacher import Teacher
from musictrain.runs.alerts import alert
from musictrain.runs.atomic import atomic_write, sync_folder

log = logging.getLogger(__name__)

LOGITS_AT_ONCE = 2**21
NEEDED = ("store", "tokenizer", "train_plan", "packing", "window", "valid_window", "transpose")
OTHERWISE = "Or leave top_k out: then the teacher is asked in every step."


def check_keepable(datamodule: Any) -> None:
    """Refuse data whose rows hold places that a teacher cannot be asked about beforehand.

    Raises:
        ValueError: saying what would do.
    """
    if missing := [name for name in NEEDED if not hasattr(datamodule, name)]:
        raise ValueError(
            "top_k keeps opinions by the pieces and places of a token store, as musictrain.MusicDataModule has one; "
            f"{type(datamodule).__name__} lacks {', '.join(missing)}. {OTHERWISE}"
        )
    if datamodule.packing:
        raise ValueError(
            "top_k keeps opinions by piece and place, and with packing=True a row holds several pieces: set data.packing to false. "
            + OTHERWISE
        )
    for name in ("velocity_jitter", "tempo_jitter"):
        if getattr(datamodule, name, 0):
            raise ValueError(
                f"top_k keeps opinions on the music as it stands, and {name}={getattr(datamodule, name)}: set it to 0. {OTHERWISE}"
            )
    if tuple(datamodule.transpose) != (0, 0):
        _check_rows_hold_whole_pieces(datamodule)


def _check_rows_hold_whole_pieces(datamodule: Any) -> None:
    """Refuse rows of parts, which may come in keys that the whole piece cannot come in."""
    if getattr(getattr(datamodule, "course", None), "length", None) is not None:
        raise ValueError(
            "top_k keeps opinions on whole pieces in each key, and a curriculum of `length` cuts rows into parts, which are transposed by "
            f"themselves. Leave out CurriculumSchedule.length, or set data.transpose to [0, 0]. {OTHERWISE}"
        )
    longest = int(datamodule.store.length[datamodule.store.pieces("train")].max(initial=1)) - 1
    if longest > datamodule.window:
        step = datamodule.tokenizer.tokens_per_step
        raise ValueError(
            f"top_k keeps opinions on whole pieces in each key, and rows of {datamodule.window} targets are transposed part by part; the "
            f"longest training piece has {longest}. Set data.transpose to [0, 0], or data.window to {-(-longest // step) * step}. "
            + OTHERWISE
        )


def keep_opinions(teacher: Teacher, trainer: Trainer, settings: Distillation) -> KeptOpinions:
    """The teacher's opinions on the training pieces of the trainer's data module, made by the first process of each machine.

    Raises:
        ValueError: also in every other process, if one could not make them, with its reason.
        OSError: if they cannot be written.
    """
    datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
    work = Work.of(teacher, datamodule, settings)
    root = cache_root(getattr(datamodule, "cache_dir", None)) / "opinions"
    is_builder = trainer.local_rank == 0
    build_first(
        lambda: open_or_build(work, root, shown=trainer.is_global_zero),
        is_builder=is_builder,
        what="ask the teacher for its opinions",
        wait_minutes=getattr(datamodule, "wait_minutes", 60.0),
        says=trainer.local_rank <= 1,
    )
    return KeptOpinions.open(root / work.key, datamodule.tokenizer.fingerprint)


@dataclass(frozen=True, eq=False)
class Work:
    """What is to be asked, cut into parts: batches of whole pieces, in one key after the other.

    Args:
        teacher: who is asked.
        store: where the pieces are.
        plan: their windows.
        transposer: moves them; None leaves them as they are.
        semitones: the keys, ascending, 0 among them.
        k: tokens that are kept of each place.
        temperature: at which.
        vocab_size: of the tokenizer.
        tokenizer: its fingerprint.
    """

    teacher: Teacher
    store: TokenStore
    plan: EvaluationPlan
    transposer: Transposer | None
    semitones: tuple[int, ...]
    k: int
    temperature: float
    vocab_size: int
    tokenizer: str

    @classmethod
    def of(cls, teacher: Teacher, datamodule: Any, settings: Distillation) -> Work:
        """For the training pieces of a data module."""
        tokenizer, store = datamodule.tokenizer, datamodule.store
        transposer = datamodule.train_plan().transposer
        align = int(np.lcm(tokenizer.tokens_per_step, getattr(teacher.network, "window_align", 1)))
        longest = getattr(teacher.network, "max_context", None)
        window = max(datamodule.window, datamodule.valid_window)
        window = max(align, (window if longest is None else min(window, longest)) // align * align)
        rows = max(1, LOGITS_AT_ONCE // (window * tokenizer.vocab_size))
        plan = EvaluationPlan(store, store.pieces("train"), window, rows, tokenizer.tokens_per_step, tokenizer.pad_id)
        semitones = (0,) if transposer is None else tuple(sorted({0, *transposer.shifts.tolist()}))
        k = min(int(settings.top_k or 1), tokenizer.vocab_size)
        return cls(teacher, store, plan, transposer, semitones, k, settings.temperature, tokenizer.vocab_size, tokenizer.fingerprint)

    @property
    def facts(self) -> dict[str, Any]:
        """All that the opinions depend on."""
        masks = b"" if self.transposer is None else self.transposer.masks.tobytes()
        return {
            "teacher": self.teacher.fingerprint,
            "network": type(self.teacher.network).__name__,
            "precision": self.teacher.precision,
            "tokenizer": self.tokenizer,
            "store": self.store.fingerprint,
            "window": self.plan.window,
            "rows": self.plan.batch_size,
            "semitones": list(self.semitones),
            "range": hashlib.sha256(masks).hexdigest()[:16],
            "k": self.k,
            "temperature": self.temperature,
        }

    @property
    def key(self) -> str:
        """Where they lie: 24 hex digits of all that."""
        return hashlib.sha256(json.dumps([FORMAT, self.facts], sort_keys=True).encode()).hexdigest()[:24]

    @property
    def num_parts(self) -> int:
        """Batches in all keys."""
        return len(self.semitones) * self.plan.num_batches

    def cuts(self, part: int) -> NDArray[np.int64]:
        """Piece, first and last token of the rows of a part, (rows, 3)."""
        batch = part % self.plan.num_batches
        return self.plan.cuts[batch * self.plan.batch_size : (batch + 1) * self.plan.batch_size]

    def ask(self, part: int) -> dict[str, NDArray[Any]]:
        """What the teacher says about a part: ``tokens`` and ``values`` of all its places, row after row, and which rows exist."""
        shift = self.semitones[part // self.plan.num_batches]
        tokens = self.plan.batch(part % self.plan.num_batches)["tokens"].numpy()
        moved, there = self._moved(tokens, shift)
        logits = self.teacher.logits(torch.from_numpy(moved[:, :-1]).to(self.teacher.device))
        said = [top_of(logits[row, : stop - start], self.k, self.temperature) for row, (_, start, stop) in enumerate(self.cuts(part))]
        ids, values = (np.concatenate([each[column] for each in said]) for column in (0, 1))
        return {"tokens": ids.astype(token_dtype(self.vocab_size)), "values": values, "there": there}

    def _moved(self, tokens: NDArray[np.int64], shift: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows (rows, time) in another key, and which of them stay inside the vocabulary; the others stay as they are."""
        if self.transposer is None or shift == 0:
            return tokens, np.ones(len(tokens), np.bool_)
        index = int(np.flatnonzero(self.transposer.shifts == shift)[0])
        there = (self.transposer.allowed(tokens) >> np.uint64(index) & np.uint64(1)).astype(np.bool_)
        return np.where(there[:, None], self.transposer.tables[index][tokens], tokens), there


def top_of(logits: torch.Tensor, k: int, temperature: float) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """The likeliest tokens of (places, vocab) logits, (places, k); log-probabilities of them and of all others, (places, k + 1)."""
    log_probabilities = torch.log_softmax(logits.float() / temperature, dim=-1)
    likeliest = log_probabilities.topk(k, dim=-1)
    rest = log_probabilities.scatter(1, likeliest.indices, -torch.inf).logsumexp(-1, keepdim=True)
    values = torch.cat((likeliest.values, rest), 1).cpu().numpy()
    return likeliest.indices.cpu().numpy(), values.astype(np.float16)


def open_or_build(work: Work, root: Path, *, shown: bool = True) -> KeptOpinions:
    """The opinions that some work comes to, made if they are not there or not whole.

    Raises:
        OSError: if the folder cannot be written.
    """
    folder = root / work.key
    try:
        return KeptOpinions.open(folder, verify=True)
    except OpinionsError as fault:
        if folder.exists():
            alert(log, f"{fault} It is made again.", kind="data", advice="Look at the disk, or at what else writes there.")
            folder.rename(root / f".{work.key}.{uuid.uuid4().hex}.broken")
    parts = root / f".{work.key}.parts"
    try:
        _ask_all(work, parts, folder, shown)
        _publish(work, parts, folder)
    except FileNotFoundError:
        # Another process has published meanwhile, and has taken the parts away: its opinions are as good.
        if not folder.exists():
            raise
    for left in (parts, *root.glob(f".{work.key}.*.broken")):
        shutil.rmtree(left, ignore_errors=True)
    return KeptOpinions.open(folder)


def _ask_all(work: Work, parts: Path, folder: Path, shown: bool) -> None:
    """Make the parts that are not there yet."""
    parts.mkdir(parents=True, exist_ok=True)
    with reading_progress(f"Opinions of {work.teacher.name}", work.num_parts, shown=shown) as advance:
        for part in _in_turn(work.num_parts):
            path = parts / f"part_{part:06d}.npz"
            if not folder.exists() and _read_part(path) is None:
                _write_part(path, work.ask(part))
            advance()


def _in_turn(count: int) -> Iterator[int]:
    """All numbers, from another one on in every process: those that work side by side meet late."""
    first = os.getpid() % count
    return iter([*range(first, count), *range(first)])


def _write_part(path: Path, said: dict[str, NDArray[Any]]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **said)  # type: ignore[arg-type]
    atomic_write(path, buffer.getvalue())


def _read_part(path: Path) -> dict[str, NDArray[Any]] | None:
    """A part that was finished, checked by its zip's checksums; None if it is not there or not whole."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in ("tokens", "values", "there")}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
        return None


def _publish(work: Work, parts: Path, folder: Path) -> None:
    """Put the parts together in a folder of this process, and rename it to its place; what stands there already stays."""
    if folder.exists():
        return
    assembled = folder.with_name(f".{work.key}.{uuid.uuid4().hex}.new")
    assembled.mkdir()
    try:
        _assemble(work, parts, assembled)
        assembled.rename(folder)
        sync_folder(folder.parent)
    except OSError:
        # Somebody published between the look and the rename: theirs is as good.
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(assembled, ignore_errors=True)


def _assemble(work: Work, parts: Path, folder: Path) -> None:
    count = np.maximum(work.store.length - 1, 0)
    first = np.full((len(work.semitones), len(work.store)), -1, np.int64)
    places = 0
    with (folder / "tokens.bin").open("wb") as tokens, (folder / "values.bin").open("wb") as values:
        for shift in range(len(work.semitones)):
            for piece, rows in _by_piece(work, parts, shift):
                first[shift, piece] = places
                for row in rows:
                    row["tokens"].tofile(tokens)
                    row["values"].tofile(values)
                    places += len(row["tokens"])
        for file in (tokens, values):
            file.flush()
            os.fsync(file.fileno())
    buffer = io.BytesIO()
    np.savez(buffer, semitones=np.array(work.semitones), first=first, count=count)
    atomic_write(folder / "index.npz", buffer.getvalue())
    files = {name: {"size": (folder / name).stat().st_size, "sha256": digest_of(folder / name)} for name in FILES}
    meta = {"format": FORMAT, "facts": work.facts, "places": places, "dtype": token_dtype(work.vocab_size).str, "files": files}
    atomic_write(folder / "meta.json", json.dumps({**meta, "digest": digest_of_meta(meta)}))


def _by_piece(work: Work, parts: Path, shift: int) -> Iterator[tuple[int, list[dict[str, NDArray[Any]]]]]:
    """Each piece with its windows in order, of one key; those that leave the vocabulary there are left out."""
    found: dict[int, dict[int, dict[str, NDArray[Any]]]] = {}
    windows = np.bincount(work.plan.cuts[:, 0], minlength=len(work.store))
    for batch in range(work.plan.num_batches):
        part = shift * work.plan.num_batches + batch
        said = _read_part(parts / f"part_{part:06d}.npz")
        if said is None:
            raise FileNotFoundError(parts / f"part_{part:06d}.npz")
        ends = np.cumsum([stop - start for _, start, stop in work.cuts(part)])
        for row, (piece, start, stop) in enumerate(work.cuts(part).tolist()):
            if not said["there"][row]:
                continue
            place = slice(int(ends[row]) - (stop - start), int(ends[row]))
            found.setdefault(piece, {})[start] = {name: said[name][place] for name in ("tokens", "values")}
            if len(found[piece]) == windows[piece]:
                yield piece, [each for _, each in sorted(found.pop(piece).items())]
