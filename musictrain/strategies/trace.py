"""TraceProfiler: a few training steps as a Chrome trace, to see what the processor does when.

    Trainer(profiler=TraceProfiler())        # then open the file in chrome://tracing or ui.perfetto.dev

When: training is slower than it should be. Cost: nothing before and after the steps that are traced, which take up to twice their time.
Source: torch.profiler; Lightning's ``profiler="pytorch"`` traces the first steps of a run, which warm up, prints a long table, and names
the file after the strategy and a random number.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.profilers import Profiler
from torch.profiler import ProfilerActivity, profile, record_function, schedule

log = logging.getLogger(__name__)

ENDS_A_STEP = "run_training_batch"


class TraceProfiler(Profiler):
    """Writes ``trace/rank_0-batch_000015.trace.json`` into the run folder: every operator, and every hook of Lightning around them.

    A batch of training reaches from the end of the one before to its own end, so that loading, validation and saving are on the picture.
    Each rank writes a file of its own. A decoder of 6 layers takes 2 MB a batch; the number of batches bounds it.

    Args:
        dirpath: the folder that ``trace`` is made in; None for the run folder (``trainer.log_dir``, else ``default_root_dir``).
        wait: batches that go by first, since the first ones are slow for reasons of their own.
        warmup: batches that are traced and thrown away, while the tracer itself warms up.
        steps: batches in a file.
        repeat: how many files; before each, ``wait`` batches go by.
        shapes: whether the shapes of all inputs are in it.
        memory: whether every allocation is.
        stacks: whether the Python lines are; large and slow.

    Raises:
        ValueError: for a number that is too small.
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        wait: int = 10,
        warmup: int = 2,
        steps: int = 3,
        repeat: int = 1,
        shapes: bool = True,
        memory: bool = False,
        stacks: bool = False,
    ) -> None:
        if min(wait, warmup) < 0 or min(steps, repeat) < 1:
            raise ValueError(
                f"TraceProfiler got wait={wait}, warmup={warmup}, steps={steps}, repeat={repeat}: the first two cannot be negative, and "
                "at least one batch must be traced once."
            )
        super().__init__(dirpath=dirpath)
        self.wait, self.warmup, self.steps, self.repeat = wait, warmup, steps, repeat
        self.options: dict[str, Any] = {"record_shapes": shapes, "profile_memory": memory, "with_stack": stacks}
        self.files: list[Path] = []
        self._folder = Path()
        self._rank = 0
        self._batches = 0
        self._profile: profile | None = None
        self._open: dict[str, record_function] = {}

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        """Begin to wait; only a fit is traced."""
        self._end()
        self._stage, self._local_rank = stage, local_rank
        if stage != "fit":
            return
        trainer = getattr(getattr(self, "_lightning_module", None), "trainer", None)
        self._rank = trainer.global_rank if trainer is not None else local_rank or 0
        self._folder = Path(str(self.dirpath or log_dir or getattr(trainer, "default_root_dir", "."))) / "trace"
        self._batches, self.files = 0, []
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self._profile = profile(
            activities=activities,
            schedule=schedule(wait=self.wait, warmup=self.warmup, active=self.steps, repeat=self.repeat),
            on_trace_ready=self._write,
            **self.options,
        )
        self._profile.start()

    def start(self, action_name: str) -> None:
        """An action of Lightning's begins."""
        if self._records:
            self._open[action_name] = record_function(action_name)
            self._open[action_name].__enter__()

    def stop(self, action_name: str) -> None:
        """It ends; after a batch's last one the next batch begins."""
        if (opened := self._open.pop(action_name, None)) is not None:
            opened.__exit__(None, None, None)
        if action_name == ENDS_A_STEP and self._profile is not None:
            self._batches += 1
            self._profile.step()
            if len(self.files) == self.repeat:
                self._end()

    def teardown(self, stage: str | None) -> None:
        """Write what has been traced of an unfinished file."""
        fitted = self._profile is not None
        self._end()
        if fitted and not self.files:
            log.warning(
                "No trace was written: the fit had %d batches, and %d go by first. Give TraceProfiler a smaller wait.",
                self._batches,
                self.wait + self.warmup,
            )
        super().teardown(stage)

    @property
    def _records(self) -> bool:
        return self._profile is not None and self._profile.current_action in RECORDING

    def _write(self, finished: profile) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"rank_{self._rank}-batch_{self._batches:06d}.trace.json"
        finished.export_chrome_trace(str(path))
        self.files.append(path)
        log.info("Trace of %d batches: %s (open it in ui.perfetto.dev or chrome://tracing).", self.steps, path)

    def _end(self) -> None:
        running, self._profile = self._profile, None
        self._open.clear()
        if running is not None:
            running.stop()


RECORDING = {torch.profiler.ProfilerAction.RECORD, torch.profiler.ProfilerAction.RECORD_AND_SAVE}
