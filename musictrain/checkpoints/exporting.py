"""Versions for other places: a plain Lightning checkpoint, safetensors, and the small thing an old version is reduced to.

Conventions: nothing is overwritten unless asked for, and a file is there whole or not at all. The weights are ``state_dict``; of a run with
``EMAWeightAveraging`` that is the moving average, and weights alone are exported without the raw ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as as_safetensors
from torch import Tensor

from musictrain.checkpoints import disk
from musictrain.checkpoints.catalog import NAME, Version, version_path
from musictrain.checkpoints.comparing import first_difference
from musictrain.checkpoints.seal import Seal, SealError, read_seal
from musictrain.checkpoints.storing import load, store
from musictrain.checkpoints.verification import BrokenCheckpointError
from musictrain.checkpoints.weights import DTYPES, converted, name_of, read_tree, weights_of, without_helpers

ENDINGS = (".ckpt", ".safetensors")


def export(path: str | Path, target: str | Path, *, weights_only: bool = False, dtype: str | None = None, replace: bool = False) -> Path:
    """Write a version as another file; gives back its path.

    ``.ckpt`` is a Lightning checkpoint with everything in it, unpacked: ``torch.load``, ``Trainer.fit(ckpt_path=...)`` and
    ``load_from_checkpoint`` read it without musictrain. ``.safetensors`` holds the weights under their names in ``state_dict``, each in
    full where several are tied, and ``step``, ``epoch``, ``run`` and ``version`` as metadata.

    A sharded version is put together by this: what is written is what one process would have saved.

    Args:
        path: of a version or any Lightning checkpoint, a file or a directory of shards; verified first.
        target: ends in ``.ckpt`` or ``.safetensors``; its folder exists.
        weights_only: leaves out optimizer, loops and callbacks; safetensors always do.
        dtype: ``bf16`` or ``fp16`` to convert the floating-point weights, which means weights only.
        replace: whether an older file of that name gives way.

    Raises:
        ValueError: for another ending or dtype, the name of a version, weights too large for fp16, or what safetensors cannot hold.
        FileExistsError: if the target is there and ``replace`` is off.
        FileNotFoundError, BrokenCheckpointError: if the version is missing or damaged.
        OSError: whatever the disk says; the older file, if any, stays.
    """
    target = Path(target)
    _check_target(target, dtype, replace)
    tree = read_tree(path)
    facts = _facts(Path(path), tree)
    if weights_only or dtype:
        tree, facts = weights_of(tree), replaced(facts, kind="average" if facts.kind == "average" else "weights")
    if dtype:
        tree["state_dict"] = converted(tree["state_dict"], dtype)
    if target.suffix == ".ckpt":
        store(tree, target, facts, packing="none", replace=replace)
    else:
        _write_safetensors(without_helpers(tree["state_dict"]), target, _metadata(Path(path), facts), replace)
    return target


def _check_target(target: Path, dtype: str | None, replace: bool) -> None:
    if target.suffix not in ENDINGS:
        raise ValueError(
            f"{target} ends in {target.suffix or 'nothing'!r}, expected {' or '.join(ENDINGS)}: the ending says what is written."
        )
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"Got dtype={dtype!r}, expected {' or '.join(DTYPES)}, or none to leave the weights as they are.")
    if NAME.fullmatch(target.name):
        raise ValueError(f"{target.name} is what a version is called, and only a training run makes versions: choose another name.")
    if target.exists() and not replace:
        raise FileExistsError(f"{target} is there already. Choose another name, or say that it is to be replaced.")


def _facts(path: Path, tree: Mapping[str, Any]) -> Seal:
    try:
        return read_seal(path).of_one_file()
    except SealError:
        return Seal("", 0, step=int(tree.get("global_step", 0)), epoch=int(tree.get("epoch", 0)))


def _metadata(path: Path, facts: Seal) -> dict[str, str]:
    return {"format": "pt", "step": str(facts.step), "epoch": str(facts.epoch), "run": facts.run, "version": name_of(path)}


def _write_safetensors(state_dict: Mapping[str, Any], target: Path, metadata: dict[str, str], replace: bool) -> None:
    odd = next((name for name, value in state_dict.items() if not isinstance(value, Tensor) or value.layout != torch.strided), None)
    if odd is not None:
        raise ValueError(f"safetensors holds dense tensors only, and {odd} is a {type(state_dict[odd]).__name__}: export to .ckpt instead.")
    # Copies of what shares memory: readers find every name, and who ties weights ties them again.
    content = as_safetensors(
        {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in state_dict.items()}, metadata
    )
    with disk.new_file(target, replace=replace) as file:
        file.write(content)


def thin(tree: Mapping[str, Any]) -> dict[str, Any]:
    """What an old version is reduced to: weights in bfloat16, and what loading them needs. ``tree`` stays as it is.

    Raises:
        ValueError: naming a weight that is too large.
    """
    small = weights_of(tree)
    return {**small, "state_dict": converted(small["state_dict"], "bf16")}


def thin_version(version: Version) -> Path:
    """Reduce a version to its weights: a small file is stored beside it and read back, then the version goes; gives back the new path.

    If this is interrupted, both files are there and the catalogue lists the version as it was; thinning it again finishes the work.

    Raises:
        ValueError: if it cannot be read, holds no more than weights, or has weights that are too large.
        BrokenCheckpointError: if it is damaged, or what was stored is not what was meant; the version then stays alone.
        OSError: whatever the disk says; the version stays.
    """
    if version.seal is None or version.thin or not version.resumable:
        raise ValueError(f"{version.path.name} cannot be thinned: {version.problem or 'it holds no more than weights'}.")
    small = thin(read_tree(version.path))
    path = version_path(version.path.parent, version.number, version.step, "thin", *version.tags)
    # A file of that name is what an interrupted thinning left.
    store(small, path, replaced(version.seal.of_one_file(), kind="weights"), packing="all", replace=True)
    try:
        if fault := first_difference(small, load(path)):
            raise BrokenCheckpointError(path, f"{fault.key} was not stored as it was meant: {fault.what}")
    except BrokenCheckpointError:
        disk.remove(path)
        raise
    disk.remove(version.path)
    return path
