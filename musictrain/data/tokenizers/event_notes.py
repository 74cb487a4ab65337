"""Notes on their way into and out of an event tokenizer: what its vocabulary can hold, and what it did hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from musictrain.notes import DEFAULT_VELOCITY, Notes, TimeSignature

MAX_BEATS = 1 << 16
MAX_LEFT_OUT = 0.05


def check_times(notes: Notes) -> None:
    """Refuse what no music has, with a ValueError: a time before the start, not a number, or beyond 65,536 beats; a tempo of 0."""
    times = np.concatenate([notes.onset, notes.duration, [t[0] for t in notes.time_signatures], [t[0] for t in notes.tempos]])
    impossible = times[~((times >= 0) & (times <= MAX_BEATS))]
    if len(impossible):
        raise ValueError(f"A time of {impossible[0]:g} beats is in this piece; they go from 0 to {MAX_BEATS}. Is the file's timing broken?")
    bad_tempos = [bpm for _, bpm in notes.tempos if not 0 < bpm < float("inf")]
    if bad_tempos:
        raise ValueError(f"A tempo of {bad_tempos[0]:g} beats a minute is in this piece; it needs a positive number.")


def notes_to_encode(notes: Notes, kind: str, params: Mapping[str, Any]) -> Notes:
    """The notes that an event vocabulary holds, in one track, with signatures that have a token.

    Raises:
        ValueError: if too much would be lost: see ``MidiTokTokenizer.encode``.
    """
    if notes.drum.any() and not params["use_programs"]:
        raise ValueError(f"{kind} with use_programs=False holds no drums, and this piece has some. With use_programs=True it holds them.")
    held = notes.select(_held(notes, kind, params))
    if kind == "Structured":
        _refuse_long_gaps(held, params)
    return replace(
        held,
        velocity=np.clip(held.velocity, 1, 127),
        program=np.where(held.drum, 0, held.program) if params["use_programs"] else np.zeros(len(held), np.int64),
        track=np.zeros(len(held), np.int64),
        time_signatures=_with_tokens(notes.time_signatures, params) if params.get("use_time_signatures") else (),
        tempos=notes.tempos if params.get("use_tempos") else (),
    )


def decoded_notes(notes: Notes, params: Mapping[str, Any]) -> Notes:
    """Notes as MidiTok decoded them, without what it made up: one track for each program, from 0 on, drums last."""
    programs = np.where(notes.drum, 128, notes.program)
    return replace(
        notes,
        track=np.unique(programs, return_inverse=True)[1].reshape(-1),
        velocity=notes.velocity if params["use_velocities"] else np.full(len(notes), DEFAULT_VELOCITY),
        time_signatures=notes.time_signatures if params.get("use_time_signatures") else (),
        tempos=notes.tempos if params.get("use_tempos") else (),
    )


def _held(notes: Notes, kind: str, params: Mapping[str, Any]) -> np.ndarray:
    low = np.where(notes.drum, params["drums_pitch_range"][0], params["pitch_range"][0])
    high = np.where(notes.drum, params["drums_pitch_range"][1], params["pitch_range"][1])
    held = (notes.pitch >= low) & (notes.pitch <= high)
    if params["use_programs"]:
        held &= np.isin(np.where(notes.drum, -1, notes.program), params["programs"])
    if np.count_nonzero(~held) > MAX_LEFT_OUT * len(notes):
        raise ValueError(
            f"{kind} would leave out {np.count_nonzero(~held)} of {len(notes)} notes: they lie beyond pitch_range={params['pitch_range']}, "
            f"drums_pitch_range={params['drums_pitch_range']} or programs. Widen these, or leave the piece out."
        )
    return held


def _refuse_long_gaps(notes: Notes, params: Mapping[str, Any]) -> None:
    longest = max(int(beats.split("_")[1]) for beats in params["beat_res"])
    gap = np.diff(notes.onset, prepend=0).max(initial=0)
    if gap > longest:
        raise ValueError(
            f"Structured holds at most {longest} beats between two onsets; this piece has {gap:g}. "
            "Give beat_res a longer range, or use REMI or TSD, which have no such limit."
        )


def _with_tokens(signatures: tuple[TimeSignature, ...], params: Mapping[str, Any]) -> tuple[TimeSignature, ...]:
    """Signatures of the vocabulary, each of the same bar length as the one it stands for; one without such a twin is left out."""
    known = [(n, int(denominator)) for denominator, numerators in params["time_signature_range"].items() for n in numerators]

    def twin(signature: TimeSignature) -> list[tuple[int, int]]:
        same_length = [(n, d) for n, d in known if n * signature.denominator == signature.numerator * d and d > 0]
        return sorted(same_length, key=lambda s: abs(s[1] - signature.denominator))[:1]

    return tuple(TimeSignature(s.onset, *t) for s in signatures if s.denominator > 0 for t in twin(s))
