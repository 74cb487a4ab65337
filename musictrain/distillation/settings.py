"""What a distillation is asked to do: the key ``model.distillation``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from musictrain.distillation_loss import check_mix
from musictrain.optim import Constant, Schedule
from musictrain.suggestions import did_you_mean

TeacherPrecision = Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true"]


@dataclass(frozen=True)
class Distillation:
    """Train on a teacher's opinion of every token, beside the tokens that came next.

    The teacher is a stored version of a run, of any network with the same tokenizer. It is frozen, in eval mode, whole on every device, and
    no part of the student's checkpoints. It reads the music as it is, also where tokens are dropped or hidden from the student.

    Logged beside ``train/loss``, which stays the hard part, in nats per token: ``train/soft_loss``, the KL divergence of the student from
    the teacher at the temperature; ``train/soft_weight``; and with ``hidden`` ``train/hidden_loss``, the share of the teacher's hidden
    states that the student's do not tell.

    Args:
        teacher: ``RUN``, its best version; ``RUN@VERSION``, such as ``calm-fugue@last`` or ``calm-fugue@v000012_step000450``; or the path
            of a version. A resumed run goes on with the very version it began with.
        temperature: what the logits of both are divided by; above 1 the teacher's view of unlikely tokens counts for more.
        weight: the soft part's share of the loss, in [0, 1]; the hard part has the rest.
        weight_schedule: factor on ``weight`` for each optimizer step: any of the schedules for the learning rate. ``WarmupCosine`` with
            ``final_fraction: 0`` begins with the teacher and ends with the music alone; ``Constant`` with a warm-up goes the other way.
        hidden: layers whose output is to tell that of one of the teacher's, by the names of both networks' modules:
            ``{blocks.1: blocks.3}``. A learned projection stands between them; it is in the run's checkpoints, and in nothing exported or
            sampled from.
        hidden_weight: of their mean squared distance as a share of the teacher's mean square, added to the loss.
        precision: the teacher's own, with Lightning's words; None: that of the run.
        top_k: ask the teacher once for the whole corpus, and keep its so many likeliest tokens of each place on disk. For rows of one piece
            each (``packing: false``), and where rows are transposed, windows that hold whole pieces. None: asked in every step.
        runs: the folder in which the teacher's run is looked for; None: that of this run, else ``$MUSICTRAIN_RUNS``, else ``runs``.

    Raises:
        ValueError: at construction, if an argument cannot work. When a run starts: if there is no such teacher, it was trained with another
            tokenizer, cannot read the windows, has no such layer, or its opinion of them cannot be kept.

    Source: Hinton, Vinyals & Dean (2015); hidden states as in Romero et al., FitNets (ICLR 2015).
    """

    teacher: str
    temperature: float = 2.0
    weight: float = 0.5
    weight_schedule: Schedule = Constant()  # noqa: RUF009  (frozen)
    hidden: dict[str, str] | None = None
    hidden_weight: float = 1.0
    precision: TeacherPrecision | None = None
    top_k: int | None = None
    runs: str | None = None

    def __post_init__(self) -> None:
        if not str(self.teacher).strip():
            raise ValueError("Distillation got no teacher: expected a run, RUN@VERSION, or the path of a version.")
        check_mix(self.temperature, self.weight)
        if not self.hidden_weight > 0.0:
            raise ValueError(f"hidden_weight is {self.hidden_weight}, expected more than 0; leave `hidden` out to match no layers.")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}, expected at least 1 token of each place, or None to ask the teacher in every step.")
        if self.precision is not None and self.precision not in get_args(TeacherPrecision):
            hint = did_you_mean(self.precision, get_args(TeacherPrecision)) or f"Known are {', '.join(get_args(TeacherPrecision))}."
            raise ValueError(f"The teacher cannot compute in precision={self.precision!r}. {hint}")
        if self.top_k is not None and self.hidden:
            raise ValueError("top_k keeps the teacher's opinions and none of its hidden states: leave out either `top_k` or `hidden`.")
