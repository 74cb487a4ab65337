"""WriteSamples: what the model plays at this point, as files to hear and to see.

Writes ``samples/step_000500/*.mid .wav .png .json`` into the run folder: pieces from nothing, and continuations of the first
validation pieces. Prompts and seeds stay the same, so that the sounds of two steps can be compared.

When: for any LightningModule with a ``network`` (tokens -> logits) and a data module with a ``tokenizer``; in another Trainer it says
so once and does nothing. Cost: the sampling time, seconds each time; the training's random numbers are not touched.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from musictrain.checkpoints.whole_network import agreed, network_of_version, whole_network
from musictrain.data.tokenizers import Tokenizer
from musictrain.generation import SampledPiece, sample_pieces
from musictrain.generation.continuation import first_beats
from musictrain.generation.length import least_tokens_for_beats, mean_tokens_per_beat, tokens_for_beats
from musictrain.generation.window import trained_context
from musictrain.listening.sample_files import write_sample
from musictrain.notes import Notes
from musictrain.runs import RunFolder
from musictrain.speed import phase

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to play from: ``num`` pieces from nothing, or one that continues ``prompt``, called ``source``."""

    stem: str
    num: int
    prompt: Notes | None = None
    source: str | None = None


class WriteSamples(Callback):
    """Generates pieces after every so many validations and at the end of the fit.

    Args:
        every: validations between two times; 0 only at the end.
        num: pieces from nothing.
        continuations: pieces that go on from the beginning of a validation piece (only if the data module has a ``corpus``).
        beats: length of the new music in quarter notes, after the prompt; a piece may end earlier by itself.
        min_beats: before so many new ones a piece does not end, even where its prompt sounds finished.
        prompt_beats: how much of a validation piece is given.
        temperature: of the sampling; see ``musictrain.generation.SamplingRule``, also for ``top_k``, ``top_p`` and ``min_p``.
        top_k: 0 is off.
        top_p: 1.0 is off.
        min_p: 0.0 is off.
        seed: of the sampling.
        weights: ``best`` samples from the best checkpoint at the end, if there is one; ``current`` from the weights as they are.

    Raises:
        ValueError: for a number out of its range.
    """

    def __init__(
        self,
        every: int = 0,
        num: int = 4,
        continuations: int = 2,
        beats: float = 64.0,
        min_beats: float = 16.0,
        prompt_beats: float = 16.0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
        weights: str = "best",
    ) -> None:
        if min(every, num, continuations, min_beats) < 0 or min(beats, prompt_beats) <= 0:
            raise ValueError(
                f"WriteSamples got every={every}, num={num}, continuations={continuations}, min_beats={min_beats}, beats={beats}, "
                f"prompt_beats={prompt_beats}: the first four cannot be negative, the last two must be positive."
            )
        if weights not in ("best", "current"):
            raise ValueError(f"WriteSamples got weights={weights!r}; it knows 'best' and 'current'.")
        self.every, self.num, self.continuations = every, num, continuations
        self.beats, self.min_beats, self.prompt_beats = beats, min_beats, prompt_beats
        self.rule: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed}
        self.weights = weights
        self._validations = 0
        self._warned = False

    def state_dict(self) -> dict[str, Any]:
        """How many validations there were, so that a resumed run samples at the same ones."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back; the settings stay those of the constructor."""
        self._validations = int(state_dict["validations"])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sample if it is time to."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._validations += 1
        if self.every and self._validations % self.every == 0:
            self._sample(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sample from the best weights, or those of the end."""
        self._sample(trainer, pl_module, best=self.weights == "best")

    @phase("sampling")
    def _sample(self, trainer: Trainer, pl_module: LightningModule, best: bool = False) -> None:
        folder = trainer.log_dir or trainer.default_root_dir  # a collective call: every process makes it
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        tokenizer = getattr(trainer.datamodule, "tokenizer", None)  # type: ignore[attr-defined]
        if not (isinstance(getattr(pl_module, "network", None), nn.Module) and isinstance(tokenizer, Tokenizer)):
            self._warn_once(pl_module)
            return
        network = best_network(trainer, pl_module) if best else None
        if not agreed("found" if network is not None else ""):
            network = whole_network(trainer, pl_module)
        if trainer.is_global_zero and network is not None:
            self._write_all(trainer, network, tokenizer, RunFolder(Path(folder)).samples_at(trainer.global_step))
        trainer.strategy.barrier("samples")

    def _write_all(self, trainer: Trainer, network: nn.Module, tokenizer: Tokenizer, target: Path) -> None:
        try:
            for request in self._requests(trainer.datamodule):  # type: ignore[attr-defined]
                for name, piece in self._play(request, network, tokenizer, trainer.datamodule):  # type: ignore[attr-defined]
                    self._write(target / name, piece, request, trainer.global_step)
        except Exception:
            # Hours of training are worth more than a sample.
            log.exception("Sampling at step %d failed; training is not affected.", trainer.global_step)

    def _requests(self, datamodule: Any) -> Iterator[Request]:
        if self.num:
            yield Request("from_nothing", self.num)
        corpus = getattr(datamodule, "corpus", None)
        pieces = corpus.split("valid")[: self.continuations] if corpus is not None else []
        for position, piece in enumerate(pieces, start=1):
            yield Request(f"continued_{position}", 1, piece.notes, piece.name)

    def _play(self, request: Request, network: nn.Module, tokenizer: Tokenizer, datamodule: Any) -> Iterator[tuple[str, SampledPiece]]:
        rate = mean_tokens_per_beat(getattr(datamodule, "store", None))
        window = getattr(datamodule, "window", None)
        pieces = sample_pieces(
            network,
            tokenizer,
            num=request.num,
            max_new_tokens=tokens_for_beats(tokenizer, self.beats, rate),
            min_new_tokens=least_tokens_for_beats(tokenizer, self.min_beats, rate),
            prompt=request.prompt,
            prompt_beats=None if request.prompt is None else self.prompt_beats,
            context=trained_context(network, window),
            **self.rule,
        )
        for position, piece in enumerate(pieces, start=1):
            yield request.stem if request.num == 1 else f"{request.stem}_{position}", piece

    def _write(self, stem: Path, piece: SampledPiece, request: Request, step: int) -> None:
        info = {"step": step, "prompt": request.source, "ended": piece.ended, "log_prob_per_token": piece.log_prob_per_token, **self.rule}
        write_sample(first_beats(piece.notes, piece.prompt_beats + self.beats), stem, info=info, prompt_beats=piece.prompt_beats)

    def _warn_once(self, pl_module: LightningModule) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "WriteSamples needs a LightningModule with a `network` and a data module with a `tokenizer`; "
                "%s in this Trainer does not offer both, so no samples are written.",
                type(pl_module).__name__,
            )


def best_network(trainer: Trainer, pl_module: LightningModule) -> nn.Module | None:
    """The network with the weights of the best checkpoint, on the first process; None on all where there is none that can be used."""
    wait = getattr(trainer.strategy.checkpoint_io, "wait", None)
    if wait is not None:
        wait()  # the best may be the last, which is being written
    watching = [callback for callback in trainer.checkpoint_callbacks if getattr(callback, "monitor", None) is not None]
    path = agreed(str(getattr(watching[0], "best_model_path", "")) if watching else "")
    network = None
    if trainer.is_global_zero and path and Path(path).exists():
        try:
            network = network_of_version(trainer, pl_module, path)
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            log.warning("%s cannot be sampled from: %s", path, error)
    return network
