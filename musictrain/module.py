"""MusicModule: trains any network that maps tokens to the logits of the next one."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

import torch
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from musictrain.batch_seed import number_of_batch, run_seed, seed_torch
from musictrain.compiling import compile_in_place
from musictrain.contract import (
    agreed_pad_id,
    blank_of,
    check_alignment,
    check_context,
    check_vocabulary,
    network_vocab_size,
    special_tokens,
    tokens_of,
)
from musictrain.data.accumulation import steps_of_run
from musictrain.distillation import Distillation, distilling
from musictrain.losses import check_loss_options
from musictrain.measuring_module import MeasuringModule
from musictrain.micro_batches import MicroBatches, in_parts
from musictrain.models.recomputing import recompute
from musictrain.models.token_dropout import NoiseKind, check_blank, check_token_dropout, drop_tokens
from musictrain.optim import (
    AdamW,
    LayerDecay,
    Plateau,
    PlateauWatch,
    Schedule,
    WarmupCosine,
    clip_adaptively,
    freeze,
    optimizer_of,
)
from musictrain.optim.adaptive_clipping import check_ratio, check_weights_keep_their_rows
from musictrain.optim.gradients import gradient_norm, gradients_of, multiply
from musictrain.optim.making import averages_weights, check_trainer, describe_optimizer
from musictrain.optim.schedules import no_limit
from musictrain.optim.shared_factory import SharedFactory
from musictrain.optim.two_passes import in_as_many_passes
from musictrain.optim.two_weights import Shown
from musictrain.running_sums import StepTokens, TrainingSums

log = logging.getLogger(__name__)

SUMS_KEY = "musictrain_training_sums"
STEP_TOKENS_KEY = "musictrain_step_tokens"
PLATEAU_KEY = "musictrain_plateau"
MICRO_BATCHES_KEY = "musictrain_micro_batches"


class MusicModule(MeasuringModule):
    """Next-token training of any network with the contract tokens (batch, time) int64 -> logits (batch, time, vocab).

    A batch is an int64 tensor (batch, time + 1), or a mapping that holds one as ``tokens`` and may hold ``notes`` and ``beats``, (batch,):
    how many notes and beats each row stands for; and ``hidden``, bool (batch, time): what is read as padding while training. The network
    reads all tokens but the last and predicts all but the first.

    Logged in nats, padding never counted, summed on the device and over all ranks, every ``trainer.log_every_n_steps`` optimizer steps:
    ``train/loss`` per token since the last line, without smoothing and z-loss; ``train/lr``; ``train/gradient_norm`` of that step before
    clipping; ``train/tokens_per_second`` since the last line, validation time left out; ``train/tokens`` so far, and once there are any
    ``train/tokens_not_finite``, which the loss leaves out. After a validation ``val/loss`` per token, and if the batches tell notes and
    beats, ``val/nats_per_note`` and ``val/bits_per_beat``; as ``test/`` after a test. These are over all of the set, not over pieces.

    What a step minimises is the mean over all tokens it sees, on all ranks and in all batches it gathers, however many of them each holds:
    1, 2 or 4 ranks, with accumulation or without, train alike on the same rows. Of one gathered batch, what ``training_step`` gives back is
    its summed loss over a constant, and callbacks see gradients before they are brought to the mean.

    Before each training batch torch's random numbers, and torch's alone, are seeded from (seed, number of the batch, share of the data this
    rank reads): a resumed run draws what the uninterrupted one would have drawn, whatever validation drew in between. The seed is the data
    module's ``seed``, else that of ``seed_everything``, else 0. So with dropout the weights do depend on the number of ranks and batches
    that a step is divided into; without, up to the order in which floating-point numbers are added alone.

    Args:
        network: the module to train; ``vocab_size``, if it has one, is the width of its logits.
        optimizer: makes an optimizer from parameter groups: ``AdamW``, ``Muon``, ``Lion``, ``SOAP``, ``Adafactor``, ``ADOPT``, ``Prodigy``,
            ``ScheduleFreeAdamW`` or ``SAM`` of ``musictrain.optim``, or any other by its class path, such as ``torch.optim.NAdam`` or
            ``pytorch_optimizer.AdEMAMix``. Learning rate and weight decay are its own arguments; norms, biases and embeddings never decay.
        schedule: factor on the learning rate for each step; where it leaves ``total_steps`` open, the trainer's limits fill it in.
        label_smoothing: share of a target's probability spread over the vocabulary, in [0, 1].
        z_loss: weight of the squared log-partition; 1e-4 is usual.
        pad_id: the token that never counts; None takes it from the data module's tokenizer, and without one every token counts.
        compile: whether to compile the network, in place (``compile_in_place``): the names in its state do not change, and where it fails
            training goes on without.
        activation_checkpointing: whether the network's blocks compute their activations again on the way back, for less memory and a
            third more time; or the dotted names of its lists of blocks, where it does not call them ``blocks`` itself.
        token_dropout: probability that a token is read wrongly while training, in [0, 1); ``train/loss`` is that of the noised music.
        token_dropout_kind: read as padding (``blank``), or as another token of the batch (``unigram``); see ``drop_tokens``.
        adaptive_clip: longest gradient of a row of weights, as a share of the row's own norm; None: no such limit. Comes before
            ``trainer.gradient_clip_val``, exact under DDP, FSDP2 and tensor parallelism; see ``clip_adaptively``.
        plateau: reduces the learning rate, on top of the schedule, when a logged value no longer gets better; None: never. See ``Plateau``.
        micro_batches: in how many parts the rows of a batch are worked on, for the same gradient with less memory. Doubled by itself, and
            said, when a batch does not fit; kept in checkpoints. See ``MicroBatches``.
        layer_decay: factor on the learning rate from each of the network's blocks to the one beneath it, 0.8 for fine-tuning; 1 is off. For
            networks that name no ``blocks``: ``{factor: 0.8, blocks: [transformer.h]}``. Shown in the table of groups. See ``LayerDecay``.
        frozen: patterns on the names of weights that are not trained, such as ``embedding`` or ``blocks.*.norm.*``. To train them later on,
            leave them out here and use the callback ``GradualUnfreezing``.
        distillation: learn from a stored version of another run beside the music; None: from the music alone. See ``Distillation``.

    Raises:
        ValueError: at construction, if a probability, a ratio or a factor cannot be, or a pattern stands for nothing. When a run starts: if
            vocabulary, window or padding do not fit the data module's, the network breaks the contract, the schedule needs the number of
            steps and the trainer has no limit, adaptive clipping meets a strategy that flattens parameters, or the teacher cannot teach
            this run. After a validation: if nobody logs what the plateau watches.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[Iterable], Optimizer] = AdamW,
        schedule: Schedule = WarmupCosine(),  # noqa: B008  (frozen)
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        pad_id: int | None = None,
        compile: bool = False,
        activation_checkpointing: bool | list[str] = False,
        token_dropout: float = 0.0,
        token_dropout_kind: NoiseKind = "blank",
        adaptive_clip: float | None = None,
        plateau: Plateau | None = None,
        micro_batches: int = 1,
        layer_decay: float | LayerDecay = 1.0,
        frozen: list[str] | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        super().__init__(network, pad_id)
        check_token_dropout(token_dropout, token_dropout_kind)
        check_loss_options(label_smoothing, z_loss)
        if adaptive_clip is not None:
            check_ratio(adaptive_clip, "adaptive_clip")
        # Built from a configuration, the checkpoint keeps it whole, as plain values; objects given in Python are left out.
        objects = ["network", "optimizer", "schedule", "plateau", "distillation"]
        objects += ["layer_decay"] if isinstance(layer_decay, LayerDecay) else []
        self.save_hyperparameters(ignore=[] if _given_hyperparameters.get() else objects)
        self.layer_decay = LayerDecay.of(layer_decay)
        if frozen:
            freeze(self, frozen)
        self.distilling = distilling(distillation, compiled=compile, label_smoothing=label_smoothing, z_loss=z_loss)
        self.hidden_matching = self.distilling.new_matching()
        self.optimizer_factory = SharedFactory(optimizer)
        self.schedule = schedule
        self.z_loss = z_loss
        self.pad_id = pad_id
        self.compile_network = compile
        self.activation_checkpointing = activation_checkpointing
        self.token_dropout = token_dropout
        self.token_dropout_kind: NoiseKind = token_dropout_kind
        self.adaptive_clip = adaptive_clip
        self._plateau = None if plateau is None else PlateauWatch(plateau)
        self._micro_batches = MicroBatches(micro_batches)
        self._latest: tuple[Any, Any] = (None, None)
        self._batch: tuple[Any, int] = (None, 0)
        self._passes_again = False
        self._spared: tuple[int, ...] = ()
        self._tokens_per_step = 1
        self._seed = 0
        self._training_sums = TrainingSums()
        self._step_tokens = StepTokens()
        self._begun = False

    # Setting up: refuse what cannot work before anything is computed.

    def setup(self, stage: str) -> None:
        datamodule = getattr(self.trainer, "datamodule", None)
        self._seed = run_seed(datamodule)
        self._pad_id = agreed_pad_id(self.pad_id, datamodule)
        self._unchecked_width = network_vocab_size(self.network)
        check_vocabulary(self.network, self._unchecked_width, getattr(datamodule, "vocab_size", None))
        check_context(self.network, *(getattr(datamodule, name, None) for name in ("window", "valid_window")))
        if stage == "fit":
            check_blank(self.token_dropout, self.token_dropout_kind, self._pad_id)
            if self.adaptive_clip is not None:
                check_weights_keep_their_rows(self.trainer.strategy)
            self._spared, self._tokens_per_step = special_tokens(getattr(datamodule, "tokenizer", None), self._pad_id)
            check_alignment(self.network, getattr(datamodule, "packing", None), getattr(datamodule, "align", None))
            self._training_sums, self._step_tokens = TrainingSums(), StepTokens()
            if self.schedule.needs_total_steps and self.trainer.max_steps == self.trainer.max_epochs == -1:
                raise ValueError(no_limit(self.schedule))
            self.distilling.setup(self.trainer, self.network, self.hidden_matching, self._seed)
            self._prepare_network()

    def _prepare_network(self) -> None:
        """Once: what is compiled or recomputes already stays so."""
        if self.activation_checkpointing:
            recompute(self.network, None if self.activation_checkpointing is True else self.activation_checkpointing)
        if self.compile_network:
            # A strategy that takes the network apart gathers it block by block, and so it is compiled.
            apart = isinstance(self.trainer.strategy, ModelParallelStrategy) and isinstance(
                getattr(self.network, "blocks", None), nn.Module
            )
            compile_in_place(self.network, blocks=("blocks",) if apart else ())

    def configure_optimizers(self) -> Any:
        optimizer = optimizer_of(self.network, self.optimizer_factory, vocab_size=self._unchecked_width, layer_decay=self.layer_decay)
        self.distilling.join(optimizer, self.hidden_matching)
        if self._trainer is not None:
            check_trainer(optimizer, self.trainer, self.schedule)
        self._weights = Shown(optimizer)
        log.info("\n%s optimizes\n%s", type(optimizer).__name__, describe_optimizer(optimizer, self.network))
        # No schedule's first factor depends on where it ends, which is not known before the loaders are there.
        self._schedule_of_run = self.schedule.over(sys.maxsize)
        # A function, since LambdaLR saves every other callable and would give a resumed run the length of the interrupted one.
        scheduler = LambdaLR(optimizer, lambda step: self._factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _factor(self, step: float) -> float:
        """On the optimizer's learning rate, for the step after ``step`` steps."""
        return self._schedule_of_run(step) * (1.0 if self._plateau is None else self._plateau.factor)

    def on_train_start(self) -> None:
        if self._plateau is not None and not self.trainer.enable_validation:
            log.warning("The plateau counts validations, and this run has none: the learning rate follows its schedule alone.")
        self._begun = False
        self._lay_schedule()
        self.distilling.start(self.trainer, self.device)
        self._training_sums.start(self.device)
        self._step_tokens.to(self.device)
        if not gradients_of(self.parameters()):
            self._step_tokens.forget()  # a checkpoint from inside a window, and nobody kept its gradients

    def _lay_schedule(self) -> None:
        if self.schedule.needs_total_steps:
            total_steps = steps_of_run(self.trainer)
            if total_steps is None:
                raise ValueError(no_limit(self.schedule))
            self._schedule_of_run = self.schedule.over(total_steps)
        self.distilling.lay_schedule(self.trainer)

    def _see_first_batch(self, batch: Any) -> None:
        self._begun = True
        self._lay_schedule()  # again: how many batches make a step may have been measured on this one
        if not self._step_tokens.unit:
            targets = torch.tensor(float(tokens_of(batch)[:, 1:].numel()), device=self.device)
            self._step_tokens.unit = max(1, round(float(self._sum_over_ranks(targets)) / self._shard[1]))

    # One step.

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._seed_batch()
        self._batch = batch, batch_idx
        if not self._begun:
            self._see_first_batch(batch)
        if self._plateau is not None and not self._plateau.is_noted:
            self._plateau.note(self.trainer.callback_metrics)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        closure = in_as_many_passes(optimizer, optimizer_closure, self._pass_again, self.trainer.accumulate_grad_batches)
        super().optimizer_step(epoch, batch_idx, optimizer, closure)

    def _pass_again(self) -> None:
        """The gradients of the same batch with the same random numbers, at the weights of this moment; nothing is logged or counted."""
        self._seed_batch()
        self._passes_again = True
        try:
            # As the loop does it, but for the hooks of callbacks: through DDP, and in the run's precision.
            self.backward(cast(Tensor, self.trainer.strategy.training_step(*self._batch)))
        finally:
            self._passes_again = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        result = self._loss_in_memory(batch)
        if not self._passes_again:
            self._latest = batch, result.loss.detach()
            self._training_sums.add(result.nll_sum, result.num_tokens)
            self.distilling.add(result)
        if not self._in_unlike_parts():
            return result.loss
        # Lightning divides by this number.
        return self._step_tokens.weigh(result.loss, result.num_tokens) * self.trainer.accumulate_grad_batches

    def _in_unlike_parts(self) -> bool:
        """Whether a step's tokens come in several parts that may hold unlike numbers of them."""
        packed = getattr(getattr(self.trainer, "datamodule", None), "packing", None) is True
        return self.trainer.accumulate_grad_batches > 1 or (self._shard[1] > 1 and not packed)

    def _seed_batch(self) -> None:
        seed_torch(self.device, self._seed, number_of_batch(self.trainer), self._shard[0])

    def _loss_in_memory(self, batch: Any) -> Any:
        """The loss of a batch, worked on in as many parts as memory asks for."""
        tokens = self._tokens_of(batch)

        def work(parts: int) -> Any:
            rows = (self._noised(batch, tokens[:, :-1]), tokens[:, 1:], *self.distilling.rows_of(batch, tokens))
            return in_parts(partial(self.distilling.loss, self, self._pad_id), parts, *rows)

        # Where the network lies in shares, other ranks wait for this one's.
        may_divide = not isinstance(self.trainer.strategy, ModelParallelStrategy | FSDPStrategy)
        return self._micro_batches.until_it_fits(len(tokens), work, self._seed_batch, may_divide=may_divide, step=self.global_step + 1)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        backward, losses, (batch, value) = super().backward, [loss], self._latest
        self._latest = None, None

        def again() -> None:
            losses.pop().detach_()  # and with it goes what is left of its graph
            self.zero_grad()
            self._seed_batch()

        def work(parts: int) -> None:
            if not losses:
                losses.append(self._loss_in_memory(batch).loss * (loss.detach() / value))
            backward(losses[0], *args, **kwargs)

        # Other ranks, and earlier batches of the window, have a share in what has been gathered already.
        may_divide = batch is not None and self.trainer.world_size == 1 and not self._step_tokens
        rows = len(tokens_of(batch)) if may_divide else 0
        self._micro_batches.until_it_fits(rows, work, again, may_divide=may_divide, step=self.global_step + 1)

    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        self._step_tokens.forget()

    def on_after_backward(self) -> None:
        self._step_tokens.gather()

    def _bring_to_mean(self) -> None:
        """Make the gradients those of the mean over all tokens of the step."""
        factor = self._step_tokens.factor(self._sum_over_ranks, self._shard[1])
        self._step_tokens.forget()
        multiply(gradients_of(self.parameters()), factor)

    def _noised(self, batch: Any, tokens: Tensor) -> Tensor:
        """What the network reads while training."""
        if isinstance(batch, Mapping) and "hidden" in batch:
            tokens = tokens.masked_fill(batch["hidden"], blank_of(self._pad_id))
        if self.token_dropout == 0.0:
            return tokens
        noise = {"blank": self._pad_id, "spared": self._spared, "step": self._tokens_per_step}
        return drop_tokens(tokens, self.token_dropout, self.token_dropout_kind, **noise)  # type: ignore[arg-type]

    # Logging: what is summed on the device is read once every few steps.

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self._step_tokens:
            self._bring_to_mean()
        # Here, and not after the step: the whole accumulation window is in the sums, nothing is clipped yet, and a checkpoint saved
        # after this step holds sums that are already flushed.
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not every or (self.global_step + 1) % every:
            return
        values: dict[str, Any] = {**self._training_sums.flush(self._sum_over_ranks, self._shard[1])}
        values |= {"lr": optimizer.param_groups[0]["lr"], "gradient_norm": self._gradient_norm(optimizer)}
        values |= self.distilling.values(self._sum_over_ranks, self.global_step)
        if self.trainer.world_size > 1:
            parts = torch.tensor(self._micro_batches.parts, device=self.device)
            self._micro_batches.learn(int(self.trainer.strategy.reduce(parts, reduce_op="max")))
        self.log("train/loss", self._widest(values.pop("loss")), prog_bar=True)
        self.log_dict({f"train/{name}": self._widest(value) for name, value in values.items()})

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        if self.adaptive_clip is not None:
            clip_adaptively((each for group in optimizer.param_groups for each in group["params"]), self.adaptive_clip)
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _gradient_norm(self, optimizer: Optimizer) -> Tensor:
        return gradient_norm(gradients_of(each for group in optimizer.param_groups for each in group["params"]))

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._watch_plateau()

    def _watch_plateau(self) -> None:
        """Show the plateau rule this validation's value."""
        # Here, and not in on_validation_end: callbacks have logged their scores, and versions saved in that hook hold the decision.
        counts = self.trainer.state.fn == "fit" and not self.trainer.sanity_checking
        if self._plateau is None or not counts or self.global_step < getattr(self.schedule, "warmup_steps", 0):
            return
        self._plateau.look(self.trainer)

    def on_validation_start(self) -> None:
        self._training_sums.pause()

    def on_train_end(self) -> None:
        self._batch = None, 0
        if not averages_weights(self.trainer):  # whose average is what the module holds by now
            self._weights.average()
        self._weights = Shown()

    def on_validation_end(self) -> None:
        self._weights.trained()
        self._training_sums.start(self.device)

    # What a checkpoint holds besides the weights.

    def _remembering(self) -> dict[str, Any]:
        parts = {SUMS_KEY: self._training_sums, STEP_TOKENS_KEY: self._step_tokens, MICRO_BATCHES_KEY: self._micro_batches}
        parts |= self.distilling.what_is_remembered
        return parts if self._plateau is None else {**parts, PLATEAU_KEY: self._plateau}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.update({key: part.state_dict() for key, part in self._remembering().items()})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.distilling.leave_out(checkpoint, self.hidden_matching)
        for key, part in self._remembering().items():
            if key in checkpoint:
                part.load_state_dict(checkpoint[key])
