"""TensorBoard: the numbers, rolls and sounds of a run for people who look at their runs there.

    musictrain fit --config chorales --trainer.logger musictrain.loggers.TensorBoard
    tensorboard --logdir runs

Files: ``tensorboard/`` in the run folder. When: on demand. Cost: a queue; tensorboard's own thread writes.
"""

from __future__ import annotations

import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from musictrain.loggers.settling import Settling, flat, harmless, sample_tag, scalars

FLUSH_SECONDS, MOST_WAITING = 20, 1000


class TensorBoard(Settling, TensorBoardLogger):  # type: ignore[misc]
    """Lightning's TensorBoardLogger in the run's folder: scalars by optimizer steps done, piano rolls and sounds of samples, settings.

    What a resumed run does again withdraws what an earlier attempt wrote from there on, so that curves do not overlap. Settings stand
    beside the last validation's scores under HPARAMS when the run has ended.

    Args:
        save_dir: where to write in a Trainer without a run folder; Lightning then adds ``lightning_logs/version_N``.
        version: of that folder; give the same again to go on in it.
    """

    def __init__(self, save_dir: str = ".", version: str | int | None = None) -> None:
        super().__init__(save_dir, version=version, default_hp_metric=False)
        self._last: dict[str, float] = {}
        self._last_step: int | None = None

    @property
    def log_dir(self) -> str:
        """Where the event files are."""
        return super().log_dir if self.run is None else str(self.run.path / "tensorboard")

    @property
    def save_dir(self) -> str:
        """The run folder, or what was given."""
        return super().save_dir if self.run is None else str(self.run.path)

    @rank_zero_only
    @harmless
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add one point to the curve of each number; other values are passed over."""
        steps = self.steps_done(step)
        found = scalars(metrics)
        writer = self._begun(steps)
        for name, value in found.items():
            writer.add_scalar(name, value, steps)
        self._last |= found
        self._last_step = steps

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Remember them for the end, where the run has no configuration of its own."""
        self._params = dict(params) if isinstance(params, Mapping) else dict(vars(params))

    @rank_zero_only
    @harmless
    def log_sample(self, stem: Path, step: int, info: Mapping[str, Any]) -> None:
        """Add the picture and the sound of a sample, ``stem``.png and .wav, as they are."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        tag, sound = sample_tag(stem), stem.with_name(f"{stem.name}.wav")
        picture = stem.with_name(f"{stem.name}.png").read_bytes()
        width, height = (int.from_bytes(picture[first : first + 4], "big") for first in (16, 20))
        with wave.open(str(sound)) as file:
            about = {"sample_rate": file.getframerate(), "num_channels": file.getnchannels(), "length_frames": file.getnframes()}
        values = [
            Summary.Value(tag=f"{tag}/roll", image=Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=picture)),
            Summary.Value(
                tag=f"{tag}/sound", audio=Summary.Audio(encoded_audio_string=sound.read_bytes(), content_type="audio/wav", **about)
            ),
        ]
        self._begun(step)._get_file_writer().add_summary(Summary(value=values), step)

    def save(self) -> None:
        """Nothing: Lightning calls it after every row, and training waits for no disk. A thread writes, every 20 seconds and at the end."""

    @rank_zero_only
    @harmless
    def finalize(self, status: str) -> None:
        """Write the settings beside the last scores, and close the file."""
        if self._experiment is None:
            return
        from torch.utils.tensorboard.summary import hparams

        scores = {name: value for name, value in self._last.items() if name.startswith("val")} or self._last
        for summary in hparams(flat(self.settings()), scores):
            self._experiment._get_file_writer().add_summary(summary, self._last_step)
        self._experiment.close()
        self._experiment = None

    def _begun(self, steps: int | None = None) -> Any:
        """The writer, opened at the first value: only then is it known from where on an earlier attempt's values no longer count."""
        if self._experiment is None:
            from torch.utils.tensorboard import SummaryWriter

            folder = Path(self.log_dir)
            goes_on = folder.is_dir() and any(folder.glob("events.out.tfevents.*"))
            purge = None if not goes_on else steps if self.resumed_from is None else self.resumed_from + 1
            self._experiment = SummaryWriter(str(folder), purge_step=purge, flush_secs=FLUSH_SECONDS, max_queue=MOST_WAITING)
            self.resumed_from = None
        return self._experiment
