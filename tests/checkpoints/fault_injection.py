"""Runs a program in a child process in which its n-th file operation goes wrong; a disk that is too small; a limit on a file's size.

    for folder, outcome in at_every_operation(save, fresh_folder, Fault("ENOSPC")):
        check(folder, outcome)

What counts as an operation is a call of ``os.open``, ``os.write`` and their like (``OPERATIONS``) on a path below the folder, or on a
descriptor that was opened there. Standard library only, POSIX only.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

ON_PATHS = ("open", "link", "symlink", "rename", "replace", "unlink", "remove", "mkdir", "rmdir")
ON_DESCRIPTORS = ("write", "pwrite", "ftruncate", "fsync", "fdatasync", "close")
OPERATIONS = (*ON_PATHS, *ON_DESCRIPTORS)
WRITES = ("write", "pwrite")
# What still works on a disk that is full; on one that is read-only or dead only closing does.
FULL = frozenset(("unlink", "remove", "rmdir", "rename", "close", "fsync", "fdatasync"))
STILL_WORK = {"ENOSPC": FULL, "EDQUOT": FULL, "EFBIG": FULL}
NOT_AT_ALL = frozenset(("close",))
NEVER_IN_READING = frozenset(("ENOSPC", "EDQUOT", "EFBIG", "EROFS"))
LONGEST_SECONDS = 300

Say = Callable[[str], None]
Program = Callable[[Path, Say], None]


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and where.

    Args:
        name: ``SIGKILL`` (the process dies before the operation), ``MemoryError``, a name of ``errno`` (the operation is not done and
            raises that; a failing ``close`` has closed, as on Linux), or ``short write`` (a ``write`` takes half of its bytes).
        at: the number of the operation, from 1. Only operations that can fail so are counted: writes for ``short write``; for
            ENOSPC, EDQUOT, EFBIG and EROFS anything but opening to read and closing afterwards.
        lasting: whether the disk stays as it is: later operations fail too, but for those that ``STILL_WORK`` and those that
            cannot fail so. Of a short write, whether all later writes raise ENOSPC.
    """

    name: str
    at: int = 1
    lasting: bool = False

    def __post_init__(self) -> None:
        if self.name not in ("SIGKILL", "MemoryError", "short write") and not hasattr(errno, self.name):
            raise ValueError(f"A fault is SIGKILL, MemoryError, 'short write' or a name of errno such as ENOSPC, not {self.name!r}.")


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Args:
        ending: ``finished``, ``raised``, ``killed`` by the fault, or ``lost`` (it hung, or died of something else).
        fault: what was injected, None if nothing.
        operation: where the fault struck, as ``fsync``; empty if the program did not come that far.
        said: the lines it has said, those before its death included.
        error: the traceback it ended with.
        operations: all operations it began, in order.
    """

    ending: Literal["finished", "raised", "killed", "lost"]
    fault: Fault | None
    operation: str
    said: tuple[str, ...]
    error: str
    operations: tuple[str, ...]

    @property
    def reached(self) -> bool:
        """Whether the fault struck at all."""
        return bool(self.operation)


def run_in_child(program: Program, folder: Path, fault: Fault | None = None) -> Outcome:
    """Run ``program(folder, say)`` in a forked child; what it says arrives even if it is killed right afterwards.

    The child must end its own threads before it returns. One that hangs is killed after five minutes and counts as ``lost``.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _live_and_die(program, folder, fault, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        heard = [json.loads(line) for line in pipe]
    _, status = os.waitpid(child, 0)
    return _outcome(heard, fault, os.WTERMSIG(status) if os.WIFSIGNALED(status) else None)


def _outcome(heard: list[dict[str, str]], fault: Fault | None, died_of: int | None) -> Outcome:
    def told(kind: str) -> tuple[str, ...]:
        return tuple(each[kind] for each in heard if kind in each)

    ending: Literal["finished", "raised", "killed", "lost"] = "lost"
    if told("end"):
        ending = "raised" if told("error") else "finished"
    elif died_of == signal.SIGKILL and told("struck"):
        ending = "killed"
    return Outcome(ending, fault, "".join(told("struck")[:1]), told("say"), "".join(told("error")), told("operation"))


def run_here(program: Program, folder: Path, fault: Fault | None = None) -> Outcome:
    """The same in this process, which is ten times as fast; a fault that kills is refused."""
    if fault is not None and fault.name == "SIGKILL":
        raise ValueError("SIGKILL would kill this process: use run_in_child.")
    heard: list[dict[str, str]] = []
    saboteur = _Saboteur(folder, fault, lambda **message: heard.append(message))
    saboteur.install()
    try:
        program(folder, lambda line: heard.append({"say": line}))
    except Exception:
        heard.append({"error": traceback.format_exc()})
    finally:
        saboteur.remove()
    return _outcome([*heard, {"end": ""}], fault, None)


def at_every_operation(
    program: Program, fresh_folder: Callable[[], Path], fault: Fault, run: Callable[..., Outcome] = run_in_child
) -> Iterator[tuple[Path, Outcome]]:
    """Run a program again and again, with the fault at its first, second, third... operation, each time in a fresh folder.

    Gives the folder and the outcome of each run. The last one is the run that the fault came too late for.
    """
    while True:
        folder = fresh_folder()
        outcome = run(program, folder, fault)
        yield folder, outcome
        if not outcome.reached:
            return
        fault = replace(fault, at=fault.at + 1)


def _live_and_die(program: Program, folder: Path, fault: Fault | None, pipe: int) -> None:
    """What the child does; never returns."""
    write = os.write

    def tell(**message: str) -> None:
        write(pipe, json.dumps(message).encode() + b"\n")

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LONGEST_SECONDS)
    try:
        _Saboteur(folder, fault, tell).install()
        program(folder, lambda line: tell(say=line))
    except BaseException:
        tell(error=traceback.format_exc())
    tell(end="")
    os._exit(0)


class _Saboteur:
    """Counts the operations of this process below a folder and strikes at one of them."""

    def __init__(self, folder: Path, fault: Fault | None, tell: Callable[..., None]) -> None:
        self.folder = os.path.realpath(folder)
        self.fault = fault
        self.tell = tell
        self.real = {name: getattr(os, name) for name in OPERATIONS if hasattr(os, name)}
        self.descriptors: set[int] = set()
        self.reading: set[int] = set()
        self.count = 0
        self.struck = False
        self.lock = threading.RLock()

    def install(self) -> None:
        for name in self.real:
            setattr(os, name, functools.partial(self.operate, name))

    def remove(self) -> None:
        for name, function in self.real.items():
            setattr(os, name, function)

    def operate(self, name: str, *arguments: Any, **options: Any) -> Any:
        with self.lock:
            if not self.concerns(name, arguments, options):
                return self.real[name](*arguments, **options)
            self.tell(operation=name)
            if self.fault is not None and self.is_due(self.fault, name, arguments):
                self.struck = True
                self.tell(struck=name)
                arguments = self.strike(self.fault, name, arguments)
            elif self.fault is not None and self.struck and self.fault.lasting:
                self.fail_again(self.fault, name, arguments)
            return self.perform(name, arguments, options)

    def perform(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        only_reads = self.only_reads(name, arguments)
        result = self.real[name](*arguments, **options)
        if name == "open":
            self.descriptors.add(result)
            (self.reading.add if only_reads else self.reading.discard)(result)
        elif name == "close":
            self.descriptors.discard(arguments[0])
        return result

    def concerns(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
        if name in ON_DESCRIPTORS:
            return arguments[0] in self.descriptors
        if any(options.get(key) is not None for key in ("dir_fd", "src_dir_fd", "dst_dir_fd")):
            return any(options.get(key) in self.descriptors for key in ("dir_fd", "src_dir_fd", "dst_dir_fd"))
        paths = arguments[:2] if name in ("link", "symlink", "rename", "replace") else arguments[:1]
        return any(self.is_below(os.fsdecode(path)) for path in paths)

    def is_below(self, path: str) -> bool:
        head, tail = os.path.split(path.rstrip("/"))
        return f"{os.path.realpath(head)}/{tail}".startswith(f"{self.folder}/") or os.path.realpath(path) == self.folder

    def only_reads(self, name: str, arguments: tuple[Any, ...]) -> bool:
        """Whether an operation opens or closes what nothing is written through."""
        if name == "close":
            return arguments[0] in self.reading
        return name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)

    def is_due(self, fault: Fault, name: str, arguments: tuple[Any, ...]) -> bool:
        if (fault.name == "short write" and name not in WRITES) or (fault.name in NEVER_IN_READING and self.only_reads(name, arguments)):
            return False
        self.count += 1
        return self.count == fault.at

    def strike(self, fault: Fault, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Kill, raise, or give the operation other arguments."""
        if fault.name == "short write":
            data = memoryview(arguments[1]).cast("B")
            return arguments[0], bytes(data[: max(1, len(data) // 2)]), *arguments[2:]
        if name == "close":
            self.perform(name, arguments, {})
        _raise(fault.name, arguments)
        return arguments

    def fail_again(self, fault: Fault, name: str, arguments: tuple[Any, ...]) -> None:
        if fault.name == "short write":
            fails = name in WRITES
        elif self.only_reads(name, arguments):
            fails = fault.name not in NEVER_IN_READING
        else:
            fails = name not in STILL_WORK.get(fault.name, NOT_AT_ALL)
        if fails:
            _raise("ENOSPC" if fault.name == "short write" else fault.name, arguments)


def _raise(name: str, arguments: tuple[Any, ...]) -> None:
    if name == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "MemoryError":
        raise MemoryError("injected")
    number = getattr(errno, name)
    path = arguments[0] if isinstance(arguments[0], str | bytes | os.PathLike) else None
    raise OSError(number, os.strerror(number), path)


@contextlib.contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A temporary folder on a file system in memory where there is one, so that thousands of fsyncs cost nothing."""
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if os.access(shared_memory, os.W_OK) else None) as folder:
        yield Path(folder)


@contextlib.contextmanager
def small_disk(folder: Path, size_kib: int) -> Iterator[Path]:
    """A file system of its own in ``folder``, so small that it fills up; the test is skipped where mounting is not allowed."""
    if not shutil.which("mount"):
        pytest.skip("there is no mount command here")
    folder.mkdir(exist_ok=True)
    mounted = _mount("-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(folder))
    if mounted.returncode:
        pytest.skip(f"mounting a small disk is not allowed here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def make_read_only(disk: Path, read_only: bool = True) -> None:
    """Remount a ``small_disk`` read-only, or writable again; no file on it may be open for writing."""
    _mount("-o", f"remount,{'ro' if read_only else 'rw'}", str(disk)).check_returncode()


def _mount(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)


@contextlib.contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond a size while the block runs: a write beyond it raises EFBIG, pytest's own writes included."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
