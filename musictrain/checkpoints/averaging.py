"""The average of several versions' weights, which is often a better model than the last of them.

Conventions: what is averaged is ``state_dict``. In versions of a run with Lightning's ``EMAWeightAveraging`` that is the moving average,
so the result is an average of averages; the raw weights are left out. Sums are in float64, files are read one at a time: memory holds one
version and one sum.

Source: Izmailov et al., Averaging Weights Leads to Wider Optima (UAI 2018). Differs from Lightning's ``StochasticWeightAveraging``: it
needs no callback while training, works on what was stored, and leaves integer buffers those of the newest version.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musictrain.checkpoints.catalog import Version, best_versions, next_number, version_path
from musictrain.checkpoints.seal import Seal, SealError, read_seal
from musictrain.checkpoints.snapshot import first_not_finite
from musictrain.checkpoints.storing import store
from musictrain.checkpoints.weights import name_of, read_tree, same_memory, weights_of

FEWEST = 2
MOST_TRIES = 100
Range = tuple[int | None, int | None]


def select(
    versions: Iterable[Version],
    *,
    last: int | None = None,
    best: int | None = None,
    metric: str = "val/loss",
    mode: str = "min",
    steps: Range | None = None,
    numbers: Range | None = None,
) -> list[Version]:
    """The versions to average, from the oldest to the newest: healthy ones with full weights, none of them an average itself.

    Args:
        versions: to choose from.
        last: so many of the newest.
        best: so many of the best by ``metric``.
        metric: a logged metric.
        mode: ``min`` or ``max``, whichever is better.
        steps: from one optimizer step to another, both included, None for no bound; before ``last`` and ``best`` are counted.
        numbers: the same for the versions' numbers.

    Raises:
        ValueError: if nothing, or both ``last`` and ``best`` are asked for, or there are too few such versions; it says how many there are.
    """
    _check_question(last, best, mode, steps, numbers)
    there = list(versions)
    fit = sorted((version for version in there if _fit(version)), key=lambda version: (version.step, version.number))
    found = [version for version in fit if _within(version.step, steps) and _within(version.number, numbers)]
    if best is not None:
        found = best_versions(found, metric, mode)
    wanted = last or best or FEWEST
    if len(found) < wanted:
        asked = [f"lie in the range of {name} asked for" for name, bounds in (("steps", steps), ("numbers", numbers)) if bounds]
        asked += [f"have a value of {metric}"] if best is not None else []
        raise ValueError(
            f"Of {len(there)} versions {len(fit)} can be averaged: healthy ones with full weights"
            + (f". Of these, {len(found)} {' and '.join(asked)}" if asked else "")
            + f"; {wanted} are needed."
        )
    chosen = found[-last:] if last is not None else found[:best]
    return sorted(chosen, key=lambda version: (version.step, version.number))


def _check_question(last: int | None, best: int | None, mode: str, steps: Range | None, numbers: Range | None) -> None:
    if (last is None and best is None and steps is None and numbers is None) or (last is not None and best is not None):
        raise ValueError(f"Got last={last} and best={best}: say one of them, or a range of steps or numbers.")
    for name, count in (("last", last), ("best", best)):
        if count is not None and count < FEWEST:
            raise ValueError(f"Got {name}={count}: an average is of {FEWEST} versions or more.")
    if mode not in ("min", "max"):
        raise ValueError(f"Got mode={mode!r}, expected min or max.")
    for name, bounds in (("steps", steps), ("numbers", numbers)):
        if bounds is not None and None not in bounds and bounds[0] > bounds[1]:  # type: ignore[operator]
            raise ValueError(f"Got {name} from {bounds[0]} to {bounds[1]}, which holds none: the smaller comes first.")


def _fit(version: Version) -> bool:
    return version.seal is not None and version.good and not version.thin and version.seal.kind in ("full", "sharded", "weights")


def _within(value: int, bounds: Range | None) -> bool:
    low, high = bounds or (None, None)
    return (low is None or low <= value) and (high is None or value <= high)


def average_versions(paths: Sequence[str | Path]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The mean of the weights of several checkpoints of one model, and the names of those that went in.

    The result is a Lightning checkpoint without optimizer, loops and callbacks, for ``load_from_checkpoint`` and ``sample``. The weights
    keep their dtype; what is no floating-point tensor, and everything around the weights, is that of the checkpoint with the most steps.

    Raises:
        ValueError: for fewer than two checkpoints, one of them twice, or, naming the tensor, weights that are not finite or those of
            another model (names, shapes, dtypes).
        FileNotFoundError: if one is missing.
        BrokenCheckpointError: if one is damaged.
    """
    files = [Path(path) for path in paths]
    if len(files) < FEWEST:
        raise ValueError(f"An average is of {FEWEST} checkpoints or more, got {len(files)}.")
    if twice := [path.name for position, path in enumerate(files) if path.resolve() in {each.resolve() for each in files[:position]}]:
        raise ValueError(f"{twice[0]} is given twice: name each checkpoint once.")
    mean = _Mean()
    for path in files:
        mean.add(path)
    return mean.result(), tuple(name_of(path) for path in files)


class _Mean:
    """Sums of the weights seen so far, and everything else of the newest checkpoint."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._model: dict[str, tuple[Any, Any]] = {}
        self._first = ""
        self._newest: dict[str, Any] = {}
        self._tied: dict[str, str] = {}

    def add(self, path: Path) -> None:
        tree = weights_of(read_tree(path))
        weights = {name: value for name, value in tree["state_dict"].items() if _is_averaged(value)}
        self._check(tree["state_dict"], weights, path)
        for name, value in weights.items():
            if name in self._sums:
                self._sums[name].add_(value.detach())
            else:
                self._sums[name] = value.detach().to(_wide(value), copy=True)
        self._count += 1
        if self._count == 1 or tree.get("global_step", 0) >= self._newest.get("global_step", 0):
            self._tied = _ties(weights)
            tree["state_dict"] = copy.copy(tree["state_dict"])
            tree["state_dict"].update(dict.fromkeys(weights))
            self._newest = tree

    def _check(self, state_dict: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> None:
        model = {name: _described(value) for name, value in state_dict.items()}
        if not self._count:
            self._model, self._first = model, path.name
        if fault := _difference(self._model, model):
            raise ValueError(f"{path.name} cannot be averaged with {self._first}, it is another model: {fault}. Leave one of them out.")
        if fault := first_not_finite({"state_dict": weights}):
            raise ValueError(f"{path.name} cannot be averaged: its {fault} is not finite. Leave it out.")

    def result(self) -> dict[str, Any]:
        state_dict = self._newest["state_dict"]
        for name, same in self._tied.items():
            state_dict[name] = self._sums.pop(name).div_(self._count).to(self._model[name][1])
            if torch.equal(state_dict[name], state_dict[same]):
                state_dict[name] = state_dict[same]
        return self._newest


def _is_averaged(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _described(value: Any) -> tuple[Any, Any]:
    """Shape and dtype of a tensor; None and the type of anything else."""
    return (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else (None, type(value).__name__)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.complex128 if tensor.is_complex() else torch.float64


def _ties(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """The first name of each tensor that has several."""
    first: dict[Any, str] = {}
    return {name: first.setdefault(same_memory(value), name) for name, value in weights.items()}


def _difference(first: Mapping[str, tuple[Any, Any]], other: Mapping[str, tuple[Any, Any]]) -> str:
    for name in [*first, *other]:
        if name not in other or name not in first:
            return f"only {'the latter' if name in first else 'the former'} has {name}"
        for what, then, now in zip(("shape", "dtype"), first[name], other[name], strict=True):
            if then != now:
                return f"{name} has the {what} {now} there, and {then} in the latter"
    return ""


def save_average(folder: str | Path, paths: Sequence[str | Path], *, packing: str = "none") -> Path:
    """Store the average of some checkpoints as a further version of a folder, of kind ``average``; gives back its path.

    Raises:
        ValueError, FileNotFoundError, BrokenCheckpointError: see ``average_versions``.
        OSError: whatever the disk says. Nothing stays behind, and nothing is ever replaced.
    """
    folder = Path(folder)
    tree, sources = average_versions(paths)
    facts = replace(
        newest_seal(paths), kind="average", step=int(tree.get("global_step", 0)), epoch=int(tree.get("epoch", 0)), reason="average",
        created=time.time(), metrics={}, ill="", vetoed="", sources=sources,
    )  # fmt: skip
    for _ in range(MOST_TRIES):
        number = next_number(folder)
        path = version_path(folder, number, facts.step)
        try:
            store(tree, path, replace(facts, number=number), packing=packing)
        except FileExistsError:
            continue  # somebody else took the number while this one was being written
        return path
    raise FileExistsError(f"The average could not be stored in {folder}: {MOST_TRIES} numbers in a row were taken by others.")


def newest_seal(paths: Iterable[str | Path]) -> Seal:
    """The seal with the most steps of some checkpoints; one that says nothing if none is sealed."""
    found = []
    for path in paths:
        try:
            found.append(read_seal(path).of_one_file())
        except (SealError, OSError):
            continue
    return max(found, key=lambda seal: (seal.step, seal.number), default=Seal("", 0))
