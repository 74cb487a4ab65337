"""WriteSamples: what the model plays at this point, as files to hear and to see.

Writes ``samples/step_000500/*.mid .wav .png .js .json`` into the run folder: pieces from nothing, and continuations of the first
validation pieces. Prompts and seeds stay the same, so that the sounds of two steps can be compared; ``samples/reference/`` holds how the
corpus itself goes on from each prompt. Loggers that have a ``log_sample(stem, step, info)`` get every sample.

When: to listen alone; ``SampleAndScore`` writes the same and says by numbers too how the music stands beside the corpus. For any
LightningModule with a ``network`` (tokens -> logits) and a data module with a ``tokenizer``; in another Trainer it says so once and does
nothing. Cost: at most ``most_share`` of the fit's time after validations, and one round at the end; the training's random numbers are not
touched.
"""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer

from musictrain.sampling.sampling_callback import SamplingCallback
from musictrain.sampling.weights import averaged_weights


class WriteSamples(SamplingCallback):
    """Writes down what is played after validations, and at the end of the fit; all settings are those of ``SamplingCallback``."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sample if it is time to, and there is time to."""
        # What the end of the fit writes would take the place of the last validation's.
        at_the_end = 0 <= trainer.max_steps <= trainer.global_step
        if not self._validated(trainer) or at_the_end or not self._has_time():
            return
        with averaged_weights(trainer, pl_module):
            self._sample(trainer, pl_module)
