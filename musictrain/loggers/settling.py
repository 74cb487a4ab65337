"""What TensorBoard and W&B share here: they settle in the run's folder, count optimizer steps done, and never end a training."""

from __future__ import annotations

import functools
import logging
import numbers
import weakref
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from musictrain.runs import RunFolder
from musictrain.runs.secrets import hidden

log = logging.getLogger(__name__)
Method = TypeVar("Method", bound=Callable[..., Any])
LONGEST_VALUE = 500


class Settling:
    """Beside Lightning's class of a logger, before it in the list of bases."""

    run: RunFolder | None = None
    resumed_from: int | None = None
    _trainer: weakref.ref[Trainer] | None = None
    _given_up = False
    _params: Mapping[str, Any] | None = None

    def settle(self, run_folder: str | Path, resumed_from: int | None = None) -> None:
        """Write into this run's folder from now on; to be called before anything is logged.

        Args:
            run_folder: of the run.
            resumed_from: the step it goes on from; None for a new run.
        """
        self.run, self.resumed_from = RunFolder(Path(run_folder)), resumed_from

    def log_graph(self, model: LightningModule, *args: Any, **kwargs: Any) -> None:
        """No graph is drawn. Lightning calls this before the first step, and so says whose steps are to be counted."""
        trainer = getattr(model, "_trainer", None)
        self._trainer = None if trainer is None else weakref.ref(trainer)

    def steps_done(self, step: int | None) -> int | None:
        """Optimizer steps done while a Trainer fits, as everywhere in a run; else the step that was given (Lightning's counts from 0)."""
        trainer = self._trainer() if self._trainer is not None else None
        return trainer.global_step if trainer is not None and trainer.state.fn == "fit" else step

    @property
    def experiment(self) -> Any:
        """The library's own object, for what only it can do; outside the first process it does nothing."""
        return AtFirstUse(self._begun if getattr(rank_zero_only, "rank", 0) == 0 else None)

    @abstractmethod
    def _begun(self) -> Any:
        """The library's own object, opened at the first call."""

    def settings(self) -> dict[str, Any]:
        """The run's configuration, or what the module saved as its hyper-parameters; without secrets."""
        told: Any = None
        if self.run is not None and self.run.config.is_file():
            told = yaml.safe_load(self.run.config.read_text(encoding="utf-8"))
        found: dict[str, Any] = hidden(told if isinstance(told, dict) else dict(self._params or {}))
        return found

    def give_up(self, error: Exception) -> None:
        """Say once that it does not work, and log no more."""
        if not self._given_up:
            log.warning(
                "%s logs no more in this run, which goes on without it and has everything in metrics.jsonl: %s: %s",
                type(self).__name__,
                type(error).__name__,
                error,
            )
            log.debug("Where it failed.", exc_info=error)
        self._given_up = True


class AtFirstUse:
    """Something that is opened when it is first asked for anything: Lightning asks for ``experiment`` before the data is there.

    Args:
        begin: opens it, or gives what is open; None where there is nothing to open: then whatever is called, nothing happens.
    """

    def __init__(self, begin: Callable[[], Any] | None) -> None:
        self._begin = begin

    def __getattr__(self, name: str) -> Any:
        return (lambda *args, **kwargs: None) if self._begin is None else getattr(self._begin(), name)


def harmless(method: Method) -> Method:
    """A method whose errors end nothing but the logging: a full disk or a process that died is no reason to stop training."""

    @functools.wraps(method)
    def tried(self: Settling, *args: Any, **kwargs: Any) -> Any:
        if self._given_up:
            return None
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            self.give_up(error)
            return None

    return tried  # type: ignore[return-value]


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The values that are single numbers, as floats; a tensor of one element is one."""
    found = {}
    for name, value in metrics.items():
        single = value.item() if hasattr(value, "item") and getattr(value, "size", None) is not None and _one(value) else value
        if isinstance(single, numbers.Real):
            found[str(name)] = float(single)
    return found


def _one(value: Any) -> bool:
    count = value.numel() if hasattr(value, "numel") else value.size
    return int(count) == 1


def flat(settings: Any, name: str = "") -> dict[str, str | float | bool]:
    """Nested settings under dotted names; lists by position, long texts cut, everything else as text.

    >>> flat({"data": {"window": 64, "files": ["a", None]}})
    {'data.window': 64, 'data.files.0': 'a', 'data.files.1': 'None'}
    """
    if isinstance(settings, Mapping):
        parts = [(str(key), value) for key, value in settings.items()]
    elif isinstance(settings, list | tuple):
        parts = [(str(position), value) for position, value in enumerate(settings)]
    else:
        return {name: settings if isinstance(settings, bool | int | float) else str(settings)[:LONGEST_VALUE]}
    return {key: value for part, inner in parts for key, value in flat(inner, f"{name}.{part}" if name else part).items()}


def sample_tag(stem: Path) -> str:
    """What a sample is called: ``samples/continued_1``, or ``reference/continued_1`` for what the corpus does."""
    name = "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in stem.name)
    return f"{'reference' if stem.parent.name == 'reference' else 'samples'}/{name}"
