"""The optimizers of the package pytorch-optimizer that suit this field, with settings that do; imported when one is used.

Every one is in one object with one state, and leaves everything as it is in a step without gradients. Further ones of the package work by
their own class paths, such as ``pytorch_optimizer.AdEMAMix``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import pytorch_optimizer

from musictrain.optim.standing_still import StandsStill
from musictrain.optim.two_weights import TwoWeights

WHOLE = "its state is computed over whole matrices"


class Lion(StandsStill, pytorch_optimizer.Lion):
    """Every weight moves by the same distance, in the direction of its momentum: one moment to keep, where AdamW has two.

    Args:
        params: parameters or parameter groups.
        lr: learning rate at a schedule's factor of 1; three to ten times smaller than AdamW's.
        betas: memory of the direction and of the momentum, each in [0, 1).
        weight_decay: share of a weight taken away in one step, times the learning rate; as many times larger than AdamW's.

    Raises:
        ValueError: if a value is out of range, from the package.

    Source: Chen et al., Symbolic Discovery of Optimization Algorithms (NeurIPS 2023).
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.3
    ) -> None:
        super().__init__(list(params), lr=lr, betas=betas, weight_decay=weight_decay)


class ADOPT(StandsStill, pytorch_optimizer.ADOPT):
    """Adam that divides by the squares of the steps before, and so converges whatever its second beta is.

    Args:
        params: parameters or parameter groups.
        lr: learning rate at a schedule's factor of 1.
        betas: memory of the gradient and of its square, each in [0, 1).
        eps: least denominator.
        weight_decay: share of a weight taken away in one step, times the learning rate.

    Raises:
        ValueError: if a value is out of range, from the package.

    The first step only measures.

    Source: Taniguchi et al., ADOPT: Modified Adam Can Converge with Any beta2 (NeurIPS 2024), with its clipping.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-6,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(list(params), lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, weight_decouple=True)


class SOAP(StandsStill, pytorch_optimizer.SOAP):
    """Adam in the directions in which a matrix' gradients vary: fewer steps, each of which costs more.

    Of a matrix m x n it keeps m x m and n x n numbers twice, and the two moments. The first step only measures. Not for weights in shares.

    Args:
        params: parameters or parameter groups.
        lr: learning rate at a schedule's factor of 1.
        betas: memory of the gradient and of its square, each in [0, 1).
        eps: added to the denominator.
        weight_decay: share of a weight taken away in one step, times the learning rate.
        precondition_frequency: steps from one look at the directions to the next; more is cheaper and slightly worse.
        max_precondition_dim: a side that is longer keeps its own directions: the vocabulary's, mostly.

    Raises:
        ValueError: if a value is out of range, from the package.

    Source: Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam (ICLR 2025).
    """

    whole_only: ClassVar[str] = WHOLE

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        precondition_frequency: int = 10,
        max_precondition_dim: int = 2048,
    ) -> None:
        super().__init__(
            list(params), lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
            precondition_frequency=precondition_frequency, max_precondition_dim=max_precondition_dim,
        )  # fmt: skip


class Adafactor(StandsStill, pytorch_optimizer.AdaFactor):
    """Adam that keeps of the squares of a matrix' gradients only the means of rows and columns: for memory that does not suffice.

    The learning rate is in shares of a weight's own size, and follows the schedule; the package's own schedule is off. Not for weights in
    shares.

    Args:
        params: parameters or parameter groups.
        lr: learning rate at a schedule's factor of 1, times the root mean square of the weight.
        beta1: memory of the update, in [0, 1); None keeps no momentum, and so hardly any state at all.
        decay_rate: how fast the memory of the squares grows with the steps, below 0.
        clip_threshold: largest root mean square of an update before it is multiplied by the learning rate.
        weight_decay: share of a weight taken away in one step, times the learning rate.

    Raises:
        ValueError: if a value is out of range, from the package.

    Source: Shazeer & Stern, Adafactor (ICML 2018); a momentum in bfloat16 as in Zhai et al., Scaling Vision Transformers (2022).
    """

    whole_only: ClassVar[str] = WHOLE

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        beta1: float | None = 0.9,
        decay_rate: float = -0.8,
        clip_threshold: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        betas: Any = (beta1, 0.999)
        super().__init__(
            list(params), lr=lr, betas=betas, decay_rate=decay_rate, clip_threshold=clip_threshold, weight_decay=weight_decay,
            relative_step=False,
        )  # fmt: skip


class Prodigy(StandsStill, pytorch_optimizer.Prodigy):
    """AdamW that finds its learning rate by itself, from how far the weights have come. Leave ``lr`` at 1.

    One rate is found for all parameters, so that none can have a rate of its own. Reads one number from the device a step. The schedule may
    come down at the end; while it warms up the estimate is kept from running away. Not for weights in shares.

    Args:
        params: parameters or parameter groups, without learning rates of their own.
        lr: factor on what is found.
        betas: memory of the gradient and of its square, each in [0, 1).
        eps: added to the denominator.
        weight_decay: share of a weight taken away in one step, times the learning rate.
        d0: first guess of the learning rate, small.
        d_coef: factor on the estimate: 0.5 or 2 where the rate that is found is too large or too small.

    Raises:
        ValueError: if a value is out of range, or groups have unlike learning rates.

    Source: Mishchenko & Defazio, Prodigy (ICML 2024), with its bias correction and safeguard for a warm-up.
    """

    whole_only: ClassVar[str] = "it adds up numbers over all weights"
    one_rate: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        d0: float = 1e-6,
        d_coef: float = 1.0,
    ) -> None:
        super().__init__(
            list(params), lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, d0=d0, d_coef=d_coef,
            bias_correction=True, safeguard_warmup=True,
        )  # fmt: skip


class ScheduleFreeAdamW(TwoWeights, pytorch_optimizer.ScheduleFreeAdamW):
    """AdamW that averages instead of coming down: as good at every step as a schedule that ends there, for runs of any length.

    Take it with the schedule ``Constant`` and a warm-up. What is validated, sampled from and stored as a version's weights is the average;
    no further averaging is needed. A checkpoint holds four numbers a weight, where AdamW's has three.

    Args:
        params: parameters or parameter groups.
        lr: learning rate at a schedule's factor of 1; one to ten times AdamW's.
        betas: how near to the average gradients are computed, in (0, 1), and memory of the gradient's square, in [0, 1).
        eps: added to the denominator.
        weight_decay: share of a weight taken away in one step, times the learning rate.
        r: the average counts step t with t to the power of this: more forgets the beginning sooner.

    Raises:
        ValueError: if a value is out of range, from the package.

    Source: Defazio et al., The Road Less Scheduled (NeurIPS 2024).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        r: float = 0.0,
    ) -> None:
        super().__init__(list(params), lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, r=r)


class Muon(StandsStill, pytorch_optimizer.Muon):
    """Hidden matrices take steps of the same length in all directions; AdamW moves all other weights. One optimizer, one state.

    Which is which is a rule, see ``hidden_matrices``, shown in a table when a run starts. Steps are scaled so that one learning rate suits
    both. In a plain loop: ``optimizer_of(network, Muon)``, or groups that say ``use_muon`` themselves.

    Args:
        params: parameter groups, each with ``use_muon``.
        lr: learning rate at a schedule's factor of 1.
        adamw_lr: that of all weights but hidden matrices; None for the same.
        momentum: memory of a matrix' gradient, in [0, 1).
        weight_decay: share of a weight taken away in one step, times the learning rate.
        betas: AdamW's memory of the gradient and of its square, each in [0, 1).
        eps: added to AdamW's denominator.
        ns_steps: iterations that make a step even.

    Raises:
        ValueError: if a value is out of range, or a group does not say ``use_muon``.

    Source: Jordan et al., Muon (2024); scaled to the length of AdamW's steps as in Liu et al., Muon is Scalable for LLM Training (2025).
    Matrices move as under ``torch.optim.Muon(adjust_lr_fn="match_rms_adamw")``, to the bit; that takes matrices alone.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        adamw_lr: float | None = None,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        ns_steps: int = 5,
    ) -> None:
        super().__init__(
            [dict(group) if isinstance(group, dict) else group for group in params], lr=lr, momentum=momentum, weight_decay=weight_decay,
            ns_steps=ns_steps, use_adjusted_lr=True, adamw_lr=lr if adamw_lr is None else adamw_lr, adamw_betas=betas,
            adamw_wd=weight_decay, adamw_eps=eps,
        )  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back a state; what went through the shards of a checkpoint has lists for tuples, which the package refuses."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            if "ns_coeffs" in group:
                group["ns_coeffs"] = [tuple(each) for each in group["ns_coeffs"]]
