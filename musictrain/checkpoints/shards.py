"""What a directory of shards holds, read by one process without a process group, whoever wrote it.

Conventions: torch's distributed checkpoints (DCP) are a pickle called ``.metadata``, which says of every tensor in which files its pieces
lie, and files in which one ``torch.save`` follows another. Lightning adds ``meta.pt`` with everything that is not sharded. torch unpickles
``.metadata``, and every value that is no tensor, without a guard. Here nothing is executed: a dozen types are all that the first may hold,
``weights_only`` reads the rest, and nothing claims more memory than there are bytes on disk.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo

from musictrain.checkpoints.verification import BrokenCheckpointError, check_zip

METADATA = ".metadata"
LONGEST_METADATA = 2**30
DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
ALLOWED: dict[tuple[str, str], Any] = {
    **{(kind.__module__, kind.__qualname__): kind for kind in (
        dcp.Metadata, dcp.MetadataIndex, dcp.TensorStorageMetadata, dcp.TensorProperties, dcp.ChunkStorageMetadata,
        dcp.BytesStorageMetadata, dcp.StorageMeta, dcp._MEM_FORMAT_ENCODING, _StorageInfo,
    )},
    **{("torch", name): value for name, value in DTYPES.items()},
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): {str(torch.strided): torch.strided}.__getitem__,
    # Where it was written, which nobody asks for: a path of another system could not even be made here.
    **{("pathlib", name): PurePosixPath for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")},
    ("pathlib._local", "PosixPath"): PurePosixPath,
}  # fmt: skip


class _Guarded(pickle.Unpickler):
    """Makes what torch puts into ``.metadata``, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it holds a {module}.{name}")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside")


class Shards:
    """The content of a directory of shards.

    Args:
        folder: the directory.

    Raises:
        BrokenCheckpointError: if ``.metadata`` is missing, holds what it never holds, or claims what the files do not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file() and not path.is_symlink()}
        try:
            self._metadata = self._read_metadata()
            self._check()
        except (BrokenCheckpointError, MemoryError):
            raise
        except Exception as error:  # a crafted pickle may hold anything in the place of anything
            raise BrokenCheckpointError(folder, f"its {METADATA} cannot be read ({_first_line(error)})") from error

    def _read_metadata(self) -> dcp.Metadata:
        size = self._files.get(METADATA)
        if size is None or size > LONGEST_METADATA:
            raise BrokenCheckpointError(self.folder, f"its {METADATA} is missing" if size is None else f"its {METADATA} is larger than any")
        found = _Guarded(io.BytesIO((self.folder / METADATA).read_bytes())).load()
        if not isinstance(found, dcp.Metadata) or not isinstance(found.planner_data, dict):
            raise pickle.UnpicklingError("it is not what torch.distributed.checkpoint writes")
        return found

    def _check(self) -> None:
        claimed = 0
        for key, entry in self._metadata.state_dict_metadata.items():
            if isinstance(entry, dcp.TensorStorageMetadata):
                _check_pieces(key, entry)
                claimed += entry.properties.dtype.itemsize * math.prod(entry.size)
            for offset, _ in _pieces(entry):
                self._check_place(key, self._place(key, offset))
        if claimed > sum(self._files.values()):
            raise ValueError(f"it claims {claimed:,} bytes of tensors, and all files together have {sum(self._files.values()):,}")

    def _check_place(self, key: str, place: _StorageInfo) -> None:
        if place.transform_descriptors:
            raise ValueError(f"{key} is packed by an extension that is not known here")
        if place.relative_path not in self._files:
            raise ValueError(f"{key} lies in {place.relative_path!r}, which is not there")
        if not 0 <= place.offset <= place.offset + place.length <= self._files[place.relative_path]:
            raise ValueError(f"{key} lies beyond the end of {place.relative_path}")

    def _place(self, key: str, offset: tuple[int, ...] | None) -> _StorageInfo:
        place = self._metadata.storage_data.get(dcp.MetadataIndex(key, offset))
        if not isinstance(place, _StorageInfo):
            raise ValueError(f"it does not say where {key} lies")
        return place

    def items(self, *, device: Any = "cpu") -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Every value with its path, such as ``("optimizer_0", "state", "layer.weight", "exp_avg")``; positions in lists are numbers.

        Args:
            device: of the tensors; on ``meta`` none is read.

        Raises:
            BrokenCheckpointError: if something cannot be read as tensors and plain values, or is not what ``.metadata`` says.
        """
        for key, entry in self._metadata.state_dict_metadata.items():
            path = self._metadata.planner_data.get(key, (key,))
            yield tuple(path), self._value(key, entry, device)

    def _value(self, key: str, entry: Any, device: Any) -> Any:
        try:
            return self._tensor(key, entry, device) if isinstance(entry, dcp.TensorStorageMetadata) else self._piece(key, None)
        except (BrokenCheckpointError, MemoryError):
            raise
        except Exception as error:
            reason = f"its {key} cannot be read as tensors and plain values ({_first_line(error)})"
            raise BrokenCheckpointError(self.folder, reason) from error

    def _tensor(self, key: str, entry: dcp.TensorStorageMetadata, device: Any) -> Tensor:
        # Zeros, so that pieces which a crafted file has shifted show nothing of this process's memory.
        whole = torch.zeros(entry.size, dtype=entry.properties.dtype, device=device)
        if whole.device.type == "meta":
            return whole
        for offset, sizes in _pieces(entry):
            piece = self._piece(key, offset)
            if not isinstance(piece, Tensor) or tuple(piece.shape) != sizes or piece.dtype != whole.dtype:
                raise ValueError(f"the piece at {offset} has another shape or type than {METADATA} says")
            where = tuple(slice(start, start + size) for start, size in zip(offset or (), sizes, strict=True))
            whole[where].copy_(piece)
        return whole

    def _piece(self, key: str, offset: tuple[int, ...] | None) -> Any:
        place = self._place(key, offset)
        with (self.folder / place.relative_path).open("rb") as file:
            file.seek(place.offset)
            content = io.BytesIO(file.read(place.length))
        check_zip(content, place.length, self.folder)
        content.seek(0)
        return torch.load(content, map_location="cpu", weights_only=True)


def _pieces(entry: Any) -> list[tuple[tuple[int, ...] | None, tuple[int, ...]]]:
    """Offset and size of each piece; of what is no tensor, the one that has neither."""
    if not isinstance(entry, dcp.TensorStorageMetadata):
        return [(None, ())]
    return [(tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in entry.chunks]


def _check_pieces(key: str, entry: dcp.TensorStorageMetadata) -> None:
    """Refuse pieces that lie outside of their tensor, or are not as large as it."""
    shape, size = tuple(entry.size), 0
    for offset, sizes in _pieces(entry):
        ranges = zip(offset or (), sizes, shape, strict=True)
        if any(not 0 <= start <= start + length <= end for start, length, end in ranges):
            raise ValueError(f"a piece of {key} lies outside of it")
        size += math.prod(sizes)
    if size != math.prod(shape):
        raise ValueError(f"the pieces of {key} do not make it whole")


def nested(items: Iterator[tuple[tuple[Any, ...], Any]]) -> dict[str, Any]:
    """The tree of some values under their paths; what stands under 0, 1, 2... is a list.

    >>> nested(iter([(("a", "b"), 1), (("c", 0, "d"), 2), (("c", 1, "d"), 3)]))
    {'a': {'b': 1}, 'c': [{'d': 2}, {'d': 3}]}
    """
    tree: dict[Any, Any] = {}
    for path, value in items:
        inside = tree
        for part in path[:-1]:
            inside = inside.setdefault(part, _Branch())
        inside[path[-1]] = value
    return {key: _listed(value) for key, value in tree.items()}


class _Branch(dict[Any, Any]):
    """A level of the tree, which a dict among the values is not."""


def _listed(value: Any) -> Any:
    if not isinstance(value, _Branch):
        return value
    if value and all(type(key) is int for key in value):
        return [_listed(value[key]) for key in sorted(value)]
    return {key: _listed(each) for key, each in value.items()}


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
