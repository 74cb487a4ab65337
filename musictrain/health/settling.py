"""Detectors out of whatever the settings were given as, and which actions are open to which of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from musictrain.health.detector import Detector, Settings
from musictrain.health.detectors import DETECTORS
from musictrain.health.finding import Finding
from musictrain.suggestions import did_you_mean

ONE_BATCH = {"non_finite", "loss_spike", "gradient_spike", "loss_scale", "data"}
"""What a single batch does, and is known before its update is made, so that it need not be."""

AT_LOOKS = {"updates", "layers", "entropy"}
"""What is not measured at every step, and spoils what is saved between two looks."""

FELT_LATER = {"loss_spike", "gradient_spike"}
"""What the update before may have brought about as well as the batch at hand."""

OUTSIDE = {"throughput", "data_wait", "memory", "slow_rank"}
"""What is wrong with the machine or the program, and no way of training mends."""


def detectors_of(given: Mapping[str, Settings | Mapping[str, Any] | None]) -> dict[str, Detector]:
    """A detector for each key that is not off.

    Args:
        given: by key settings, a mapping of them, or None for those that it has by itself.

    Raises:
        ValueError: for settings that cannot work.
    """
    settings = {key: settled(key, kind, given.get(key)) for key, kind in DETECTORS.items()}
    for key, one in settings.items():
        check_action(key, one.action)
    return {key: one.detector() for key, one in settings.items() if one.action != "off"}


def guards_updates(detectors: Mapping[str, Detector]) -> bool:
    """Whether updates that are not finite are not to be made."""
    return "non_finite" in detectors and detectors["non_finite"].settings.action not in ("log", "alert")


def unseen_steps(settings: Settings, every_n_steps: int) -> int:
    """Optimizer steps before the one at which a finding is said to have begun, in which it may have done so unseen.

    Weights, layers and predictions are looked at now and then, and some must be so at several looks in a row.
    """
    if settings.kind not in AT_LOOKS:
        return 0
    return every_n_steps * (1 if settings.kind == "updates" else int(getattr(settings, "patience", 1))) - 1


def first_suspect(settings: Settings, finding: Finding, every_n_steps: int) -> int:
    """The first optimizer step, from 1, that may have brought a finding about: no version of it or after is trusted, and its batches
    and those of all steps since are passed over. Loss and gradients of a step are of weights that the step before has made."""
    return max(1, finding.began - unseen_steps(settings, every_n_steps) - (settings.kind in FELT_LATER))


def settled(key: str, kind: type[Settings], given: Settings | Mapping[str, Any] | None) -> Settings:
    """The settings of one detector.

    Raises:
        ValueError: for a name that is no setting of it, or settings of another detector.
    """
    if isinstance(given, Mapping):
        known = [entry.name for entry in fields(kind)]
        for name in given:
            if name not in known:
                hint = did_you_mean(str(name), known) or f"It has {', '.join(known)}."
                raise ValueError(f"{key} got {name!r}, which is no setting of {kind.__name__}. {hint}")
        return kind(**given)
    if given is not None and not isinstance(given, kind):
        raise ValueError(f"{key} got {type(given).__name__}; it needs {kind.__name__}, or a mapping of its settings.")
    return kind() if given is None else given


def check_action(key: str, action: str) -> None:
    """Refuse an action that cannot help.

    Raises:
        ValueError: with what can.
    """
    if key in OUTSIDE and action not in ("off", "log", "alert", "stop"):
        raise ValueError(f"{key} got action={action!r}, which does not mend what it finds: it takes off, log, alert or stop.")
    if action == "skip" and key not in ONE_BATCH:
        others = "off, log, alert, reduce_lr, roll_back or stop"
        raise ValueError(f"{key} got action='skip', but what it finds no single update does: it takes {others}.")


def check_numbers(every_n_steps: int, lr_factor: float, lr_steps: int) -> None:
    """Refuse what cannot be.

    Raises:
        ValueError: with what was given.
    """
    if every_n_steps < 1 or lr_steps < 1 or not 0.0 < lr_factor < 1.0:
        raise ValueError(
            f"AnomalyAlerts got every_n_steps={every_n_steps}, lr_factor={lr_factor}, lr_steps={lr_steps}: steps are whole numbers from 1 "
            "on, and the factor lies between 0 and 1."
        )
