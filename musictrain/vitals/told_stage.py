"""Which stage of its training a run is in, as those callbacks tell who change at once what is trained, or on what."""

from __future__ import annotations

from collections.abc import Iterable


def stage_of(callbacks: Iterable[object], step: int) -> dict[str, float]:
    """``stage`` at an optimizer step, counted from 1; empty where nobody tells.

    A callback tells by a method ``training_stage(step)``: any number, another one after each jump. Detectors that know what is normal
    begin anew where it changes.
    """
    told = [float(tell(step)) for each in callbacks if (tell := getattr(each, "training_stage", None)) is not None]
    return {"stage": sum(told)} if told else {}
