"""The configuration our MidiTok tokenizers run with: every setting pinned, so that another MidiTok default changes no token.

``PINNED`` is what a kind starts from and a user may change. ``FIXED`` is what stays: the token types that Notes cannot hold (chords,
pedals, bends) or that would need one sequence a track. Names and meanings are those of ``miditok.TokenizerConfig`` 3.1; pairs of
beats are written "0_4" as in MidiTok's own JSON files, so that a configuration is plain JSON and plain YAML.

Why these values: 12 positions a beat hold 16ths and triplets exactly (32nds are rounded); tempos lie 5 apart and hold 120;
durations are exact to a 12th of a beat up to 4 beats, to a quarter of a beat up to 12, to a beat up to 32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from musictrain.suggestions import did_you_mean

KINDS = ("REMI", "TSD", "Structured")
OTHER_KINDS = {
    "MIDILike": "its note-off tokens have no grammar here yet",
    "CPWord": "it has several vocabularies, a model here has one",
    "Octuple": "it has several vocabularies, a model here has one",
    "MuMIDI": "it has several vocabularies, a model here has one",
    "MMM": "it writes one track after the other",
    "PerTok": "its microtiming tokens have no grammar here yet",
    "BEAT": "it has no grammar here yet",
}

_NOTES = {
    "pitch_range": [21, 108],
    "drums_pitch_range": [27, 88],
    "beat_res": {"0_4": 12, "4_12": 4, "12_32": 1},
    "use_velocities": True,
    "num_velocities": 32,
    "use_programs": True,
    "programs": list(range(-1, 128)),
    "remove_duplicated_notes": False,
}
_TIME = {
    "use_rests": False,
    "beat_res_rest": {"0_1": 12, "1_2": 4, "2_12": 2},
    "use_tempos": True,
    "num_tempos": 43,
    "tempo_range": [40, 250],
    "log_tempos": False,
    "delete_equal_successive_tempo_changes": True,
    "use_time_signatures": True,
    "time_signature_range": {"4": [1, 2, 3, 4, 5, 6, 7, 8], "8": [3, 5, 6, 7, 9, 12]},
}
PINNED: dict[str, dict[str, Any]] = {
    "REMI": {**_NOTES, **_TIME},
    "TSD": {**_NOTES, **_TIME},
    # Structured rounds a gap between two onsets to one token, so that a coarse one would shift all that follows.
    "Structured": {**_NOTES, "beat_res": {"0_32": 12}},
}
FIXED: dict[str, Any] = {
    "special_tokens": ["PAD", "BOS", "EOS"],
    "encode_ids_split": "no",
    "use_note_duration_programs": list(range(-1, 128)),
    "default_note_duration": 0.5,
    "use_chords": False,
    "use_key_signatures": False,
    "use_sustain_pedals": False,
    "sustain_pedal_duration": False,
    "use_pitch_bends": False,
    "use_control_changes": False,
    "use_pitch_intervals": False,
    "use_pitchdrum_tokens": True,
    "one_token_stream_for_programs": True,
    "program_changes": False,
    "max_bar_embedding": None,
    "use_bar_end_tokens": False,
    "add_trailing_bars": False,
    "delete_equal_successive_time_sig_changes": False,
    **{f"ac_{name}_track": False for name in ("polyphony", "note_density", "note_duration", "repetition")},
    **{f"ac_{name}_bar": False for name in ("polyphony", "pitch_class", "note_density", "note_duration")},
}
_NO_TIME = {"use_rests": False, "use_tempos": False, "use_time_signatures": False}
_FOUR_FOUR = {"4": [4]}


def resolve_params(kind: str, changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Every setting of a kind as plain JSON values: the pinned ones, with the user's changes.

    Raises:
        ValueError: for a kind or a setting that is unknown or not offered (with the nearest known name), and for settings that
            contradict each other.
    """
    _check_kind(kind)
    params = dict(PINNED[kind])
    for name, value in (changes or {}).items():
        _check_name(kind, name, value)
        if name in params:
            params[name] = _of_same_type(name, _plain(value), params[name])
    _check_values(params)
    return params


def miditok_arguments(params: Mapping[str, Any]) -> dict[str, Any]:
    """Resolved settings as the arguments of ``miditok.TokenizerConfig``."""
    arguments = {**FIXED, **_NO_TIME, "time_signature_range": _FOUR_FOUR, **params}
    if not arguments["use_time_signatures"]:
        arguments["time_signature_range"] = _FOUR_FOUR
    for name in ("beat_res", "beat_res_rest"):
        if name in arguments:
            arguments[name] = {tuple(map(int, beats.split("_"))): steps for beats, steps in arguments[name].items()}
    arguments["time_signature_range"] = {int(k): list(v) for k, v in arguments["time_signature_range"].items()}
    for name in ("pitch_range", "drums_pitch_range", "tempo_range"):
        if name in arguments:
            arguments[name] = tuple(arguments[name])
    return arguments


def _check_kind(kind: str) -> None:
    if kind in KINDS:
        return
    offered = f"MidiTokTokenizer offers {', '.join(KINDS)}"
    if kind in OTHER_KINDS:
        raise ValueError(f"{offered}; {kind} is MidiTok's but not offered: {OTHER_KINDS[kind]}.")
    raise ValueError(f"{offered}, not {kind!r}. {did_you_mean(kind, (*KINDS, *OTHER_KINDS))}".rstrip())


def _check_name(kind: str, name: str, value: Any) -> None:
    if name in PINNED[kind] or (name in FIXED and _plain(value) == FIXED[name]):
        return
    if name in FIXED:
        raise ValueError(f"{kind} keeps {name}={FIXED[name]!r} here and got {value!r}: the notes or the grammar cannot hold it.")
    if name in PINNED["REMI"]:
        raise ValueError(f"{kind} has no tokens for {name}: it is notes and time shifts only. REMI and TSD have them.")
    known = sorted(PINNED[kind])
    raise ValueError(f"{kind} has no setting {name!r}. {did_you_mean(name, known)} Settings: {', '.join(known)}.".replace("  ", " "))


def _of_same_type(name: str, value: Any, pinned: Any) -> Any:
    numbers_only = not isinstance(pinned, list) or (isinstance(value, list) and all(type(v) is int for v in value))
    if type(value) is not type(pinned) or not numbers_only or (isinstance(pinned, list) and not value):
        raise ValueError(f"{name} got {value!r}; it is given like {pinned if len(str(pinned)) < 60 else pinned[:3]!r}.")
    return value


def _check_values(params: Mapping[str, Any]) -> None:
    for name in ("beat_res", "beat_res_rest"):
        if not all(re.fullmatch(r"\d+_\d+", beats) and type(steps) is int and steps > 0 for beats, steps in params.get(name, {}).items()):
            raise ValueError(f"{name}={params[name]}: beats are given like '0_4' (from 0 to 4), each with its steps a beat.")
    if not all(-1 <= program <= 127 for program in params["programs"]):
        raise ValueError(f"programs got {params['programs']}; they go from 0 to 127, and -1 is drums.")
    steps = max(params["beat_res"].values())
    uneven = [s for s in (*params["beat_res"].values(), *params.get("beat_res_rest", {}).values()) if steps % s]
    if uneven:
        raise ValueError(f"beat_res={params['beat_res']}: {uneven[0]} steps a beat do not divide the finest {steps}.")
    if params.get("use_time_signatures") and 4 not in params["time_signature_range"].get("4", []):
        raise ValueError(f"time_signature_range={params['time_signature_range']} lacks 4/4, which a piece without a signature is in.")
    low, high = params["drums_pitch_range"]
    has_drums = params["use_programs"] and -1 in params["programs"]
    if has_drums and not (params["pitch_range"][0] <= low <= high <= params["pitch_range"][1]):
        raise ValueError(
            f"drums_pitch_range={[low, high]} is not within pitch_range={params['pitch_range']}: MidiTok would lose the drums beyond it. "
            "Widen pitch_range, narrow drums_pitch_range, or leave -1 (drums) out of programs."
        )


def _plain(value: Any) -> Any:
    """A setting as JSON would give it back: lists for tuples and sets, "0_4" for (0, 4), "8" for 8 as a key."""
    if isinstance(value, Mapping):
        return {"_".join(map(str, k)) if isinstance(k, tuple) else str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value)
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value
