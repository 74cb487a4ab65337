"""The settings of a data module, checked before anything is read: what came, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from musictrain.data.masking import check_mask
from musictrain.data.splits import check_fractions
from musictrain.data.transposition import check_range
from musictrain.data.value_jitter import check_steps


class ResumeError(ValueError):
    """A checkpoint that was trained on other music or other tokens than the run it is to go on in."""


def check_same(what: str, saved: Mapping[str, str], name: str, fingerprint: str) -> None:
    """Refuse to go on with another tokenizer or corpus.

    Raises:
        ResumeError: naming what the checkpoint has and what the run has.
    """
    if saved["fingerprint"] != fingerprint:
        raise ResumeError(
            f"The checkpoint was trained with the {what} {saved['name']} ({saved['fingerprint']}), but this run has {name}"
            f" ({fingerprint}). Give the run the {what} of the checkpoint, or start a new run instead of resuming."
        )


def check_settings(data: Any) -> None:
    """Refuse what cannot work.

    Args:
        data: a ``MusicDataModule``, or what has its arguments as attributes.

    Raises:
        ValueError: naming the argument.
    """
    step = data.tokenizer.tokens_per_step
    for name in ("window", "valid_window"):
        if (value := getattr(data, name)) < 1 or value % step:
            raise ValueError(
                f"{name}={value}, expected a multiple of {step}, the tokens per step of {data.tokenizer.name},"
                f" such as {max(1, round(value / step)) * step}."
            )
    _check_align(data, step)
    for name, least in (("batch_size", 1), ("valid_batch_size", 1), ("num_workers", 0), ("seed", 0)):
        if (value := getattr(data, name)) is not None and value < least:
            raise ValueError(f"{name}={value}, expected at least {least}.")
    if data.wait_minutes <= 0:
        raise ValueError(f"wait_minutes={data.wait_minutes}, expected more than 0.")
    if len(data.transpose) != 2:
        raise ValueError(f"transpose={data.transpose}, expected the lowest and the highest shift, such as (-5, 6).")
    check_range(*data.transpose)
    if data.transpose_within not in ("vocabulary", "corpus"):
        raise ValueError(f"transpose_within={data.transpose_within!r}, expected 'vocabulary' or 'corpus'.")
    check_fractions(data.splits)
    check_steps(data.tokenizer, "Velocity", data.velocity_jitter)
    check_steps(data.tokenizer, "Tempo", data.tempo_jitter)
    check_mask(data.tokenizer, "notes", data.mask_notes)
    check_mask(data.tokenizer, "bars", data.mask_bars)


def _check_align(data: Any, step: int) -> None:
    align = data.align
    if align is not None and data.packing:
        raise ValueError(f"align={align} needs packing=False: in a packed row a piece may begin anywhere.")
    if align is not None and (align < 1 or align % step or data.window % align or data.valid_window % align):
        raise ValueError(
            f"align={align}, expected a multiple of {step} tokens that divides window={data.window} and valid_window={data.valid_window}."
        )
