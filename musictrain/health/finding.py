"""A finding: what a detector says, with everything that makes an alarm useful."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be, or that is over.

    Args:
        kind: of which sort, in a word that never changes, such as ``loss_spike``; people filter and count by it.
        step: at which it was found.
        what: what is wrong, as the subject of a sentence: ``the training loss``.
        where: rank, layer or parameter as a person reads it; empty if it is about the whole run.
        value: what was measured.
        normal: what was to be expected; nan if nothing is.
        score: how far from normal, in ``beyond``'s unit; larger is worse, comparable within a kind.
        advice: what to try, in a sentence.
        beyond: how far from normal in words: ``31 robust deviations above the last 128 steps``.
        unit: behind the numbers, such as ``s``; ``%`` shows shares in percent.
        details: further facts that JSON can hold, such as ``layer`` or ``rank``.
        began: step at which the incident began.
        over: this says that it is over; value and score are then the worst of it.
    """

    kind: str
    step: int
    what: str
    where: str
    value: float
    normal: float
    score: float
    advice: str
    beyond: str = ""
    unit: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    began: int = -1
    over: bool = False

    def __post_init__(self) -> None:
        if self.began < 0:
            object.__setattr__(self, "began", self.step)

    def sentence(self) -> str:
        """What, where and how far from normal, with numbers.

        >>> Finding("loss_spike", 512, "the training loss", "", 3.5, 0.5, 31.0, "", "31 robust deviations above").sentence()
        'At step 512 the training loss is 3.5, normally 0.5: 31 robust deviations above.'
        """
        of = f" of {self.where}" if self.where else ""
        if self.over:
            return self._ending(of)
        if not math.isfinite(self.value):
            first = f", first in {self.where}" if self.where else ""
            return f"At step {self.step:,} {self.what} {self._verb} not finite{first}."
        normally = f", normally {self._shown(self.normal)}" if math.isfinite(self.normal) else ""
        beyond = f": {self.beyond}" if self.beyond else ""
        return f"At step {self.step:,} {self.what}{of} {self._verb} {self._shown(self.value)}{normally}{beyond}."

    def _ending(self, of: str) -> str:
        lasted = f"from step {self.began:,} to step {self.step:,}" if self.step > self.began else f"at step {self.step:,}"
        if self.details.get("stayed"):
            what = self.what[0].upper() + self.what[1:]
            return f"{what}{of} stayed so ({lasted}, at worst {self._shown(self.value)}), which is taken for normal now."
        worst = f", at worst {self._shown(self.value)}" if math.isfinite(self.value) else ""
        return f"It is over: {self.what}{of} {self._verb} as usual again after having been unusual {lasted}{worst}."

    @property
    def _verb(self) -> str:
        subject = re.split(r" of | that |,", self.what)[0]
        return "are" if subject.endswith("s") and not subject.endswith("ss") else "is"

    def _shown(self, value: float) -> str:
        if self.unit == "%":
            return f"{100 * value:.3g} %"
        return f"{value:.4g} {self.unit}".rstrip() if abs(value) < 10_000 else f"{value:,.0f} {self.unit}".rstrip()

    def as_details(self) -> dict[str, Any]:
        """Its numbers and facts, as :func:`musictrain.runs.alerts.alert` takes them beside message, kind and advice.

        Numbers that are not finite are left out: JSON has none.
        """
        numbers = {"value": self.value, "normal": self.normal, "score": self.score}
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        return {"step": self.step, **({"where": self.where} if self.where else {}), **finite, "began": self.began, **self.details}
