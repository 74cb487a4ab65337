"""The language of REMI, TSD and Structured: which token may follow which, and where in the bar the clock stands.

Three things decide what may come next:

- The kind of the last token (``followers``): a Pitch is followed by its Velocity, a Velocity by its Duration.
- In REMI, the clock: positions increase within a bar and stay within its length in the current signature. A Rest moves the clock
  on from the end of the last note, over bar lines if it is long; it needs no Bar token for them.
- After EOS only EOS.

Every rule is one of MidiTok's encoder, so that real pieces keep it, and together they keep MidiTok's decoder from losing a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musictrain.data.tokenizers.event_vocabulary import EventVocabulary, Kind
from musictrain.data.tokenizers.protocol import TokenIds

LAST, SIGNATURE, TICK, SOUNDING_UNTIL, IN_BAR = range(5)
State = NDArray[np.int64]


class EventGrammar:
    """Which tokens may come next, for many sequences at once.

    The state is (batch, 5) integers: kind of the last token, signature, and the clock in ticks from the start of the bar: now,
    the end of the notes so far, and whether the first bar has begun.

    Args:
        vocabulary: the tokens.
        kind: REMI, TSD or Structured.
        params: the tokenizer's resolved settings.
        lenient: read fragments and damage: begin anywhere, and after a Bar, a Position or a TimeShift go on as after a note, even
            where a signature or a note is missing. For decoding, not for sampling.
    """

    def __init__(self, vocabulary: EventVocabulary, kind: str, params: Mapping[str, Any], *, lenient: bool = False) -> None:
        self._vocabulary = vocabulary
        self._has_bars = kind == "REMI"
        self._has_rests = bool(params.get("use_rests"))
        table = np.zeros((len(Kind), len(Kind)), bool)
        for before, after in followers(kind, params, lenient=lenient).items():
            table[before, list(after)] = True
        self._may_follow = table[:, vocabulary.kinds]
        self._position_ticks = vocabulary.step_ticks[:, None] * np.arange(len(vocabulary.positions))
        self._time_signatures = np.nonzero(vocabulary.kinds == Kind.TIME_SIGNATURE)[0]

    def start(self, batch: int) -> State:
        """The state of ``batch`` sequences before their first token."""
        return np.zeros((batch, 5), np.int64)

    def allowed(self, state: State) -> NDArray[np.bool_]:
        """May token v come next in sequence b: (batch, vocab)."""
        allowed = self._may_follow[state[:, LAST]]
        if self._has_bars:
            at = self._vocabulary.positions
            allowed[:, at] &= self._positions_ahead(state)
        if self._has_bars and self._has_rests:
            # A signature changes at a bar line only; a Rest may end on one.
            inside_bar = (state[:, LAST] == Kind.REST) & (state[:, TICK] != 0)
            allowed[:, self._time_signatures] &= ~inside_bar[:, None]
        return allowed

    def advance(self, state: State, tokens: TokenIds) -> State:
        """The state after one more token for each sequence; PAD changes nothing, BOS begins anew, a token out of turn is obeyed."""
        tokens = np.asarray(tokens)
        kind = self._vocabulary.kinds[tokens]
        after = np.zeros_like(state)
        if self._has_bars:
            self._move_clock(state, after, kind, tokens)
            after[kind == Kind.BOS] = 0
        after[:, LAST] = kind
        padding = kind == Kind.PAD
        return np.where(padding[:, None], state, after) if padding.any() else after

    def keeps(self, tokens: TokenIds) -> bool:
        """Whether ``allowed`` would let a whole sequence (time,) pass; all at once, without a step for each token.

        With rests in bars this is not known without walking through the piece: then it is False.
        """
        vocabulary = self._vocabulary
        kinds = vocabulary.kinds[tokens]
        if not self._may_follow[np.append(Kind.START, kinds)[:-1], tokens].all():
            return False
        if not self._has_bars or self._has_rests:
            return not self._has_bars
        latest = np.maximum.accumulate(np.where(kinds == Kind.TIME_SIGNATURE, np.arange(len(kinds)), -1))
        signature = np.where(latest >= 0, vocabulary.signature_of[tokens[latest]], 0)
        at = np.nonzero(kinds == Kind.POSITION)[0]
        ticks, bar = self._position_ticks[signature[at], vocabulary.position_of[tokens[at]]], np.cumsum(kinds == Kind.BAR)[at]
        grows = (np.diff(ticks) > 0) | (np.diff(bar) > 0)
        return bool(grows.all() and (ticks < vocabulary.bar_ticks[signature[at]]).all())

    def _positions_ahead(self, state: State) -> NDArray[np.bool_]:
        signature = state[:, SIGNATURE]
        ticks = self._position_ticks[signature]
        # At the start of a bar and after a rest, the clock's own position is free too.
        first = state[:, TICK] + ~_FRESH[state[:, LAST]]
        return (ticks >= first[:, None]) & (ticks < self._vocabulary.bar_ticks[signature][:, None])

    def _move_clock(self, before: State, after: State, kind: NDArray[np.int64], tokens: TokenIds) -> None:
        vocabulary, signature, tick = self._vocabulary, before[:, SIGNATURE], before[:, TICK]
        after[:, SIGNATURE] = np.where(kind == Kind.TIME_SIGNATURE, vocabulary.signature_of[tokens], signature)
        tick = np.where(kind == Kind.BAR, 0, tick)
        after[:, TICK] = np.where(kind == Kind.POSITION, self._position_ticks[signature, vocabulary.position_of[tokens]], tick)
        if self._has_rests:
            self._keep_rests(before, after, kind, vocabulary.time_ticks[signature, tokens])

    def _keep_rests(self, before: State, after: State, kind: NDArray[np.int64], time: NDArray[np.int64]) -> None:
        """A rest counts from the last end of a note, or from a tempo or bar line after it."""
        bar, rest = self._vocabulary.bar_ticks[before[:, SIGNATURE]], kind == Kind.REST
        rested = np.maximum(before[:, SOUNDING_UNTIL], before[:, TICK]) + time
        bars = np.where(kind == Kind.BAR, before[:, IN_BAR], np.where(rest, rested // bar, 0))
        after[:, TICK] = np.where(rest, rested - bars * bar, after[:, TICK])
        ends = np.where(kind == Kind.DURATION, before[:, TICK] + time, np.where(kind == Kind.TEMPO, before[:, TICK], 0))
        after[:, SOUNDING_UNTIL] = np.maximum(before[:, SOUNDING_UNTIL] - bars * bar, ends)
        after[:, IN_BAR] = before[:, IN_BAR] | (kind == Kind.BAR) | (kind == Kind.POSITION) | rest


_FRESH = np.isin(np.arange(len(Kind)), (Kind.START, Kind.BOS, Kind.BAR, Kind.TIME_SIGNATURE, Kind.REST))


def followers(kind: str, params: Mapping[str, Any], *, lenient: bool = False) -> dict[Kind, set[Kind]]:
    """Which kinds of tokens may follow each kind."""
    note = {Kind.PROGRAM} if params["use_programs"] else {Kind.PITCH}
    note |= {Kind.DRUMS} if params["use_programs"] and -1 in params["programs"] else set()
    ends_pitch = {Kind.VELOCITY} if params["use_velocities"] else {Kind.DURATION}
    after = {Kind.PROGRAM: {Kind.PITCH}, Kind.DRUMS: {Kind.DRUM}, Kind.PITCH: ends_pitch, Kind.DRUM: ends_pitch}
    after |= {Kind.VELOCITY: {Kind.DURATION}, Kind.EOS: {Kind.EOS}}
    between = {"REMI": _remi, "TSD": _tsd, "Structured": _structured}[kind]
    after |= between(note, params)
    for ending in (Kind.BOS, Kind.DURATION, Kind.TEMPO, Kind.TIME_SIGNATURE):
        after.setdefault(ending, set()).add(Kind.EOS)
    after[Kind.START] = {Kind.BOS} | after[Kind.BOS] - {Kind.EOS}
    if lenient:
        for before in (Kind.START, Kind.BAR, Kind.TIME_SIGNATURE, Kind.POSITION, Kind.TEMPO, Kind.REST, Kind.TIME_SHIFT):
            after[before] = after.get(before, set()) | after[Kind.DURATION]
    return after


def _remi(note: set[Kind], params: Mapping[str, Any]) -> dict[Kind, set[Kind]]:
    signatures = {Kind.TIME_SIGNATURE} if params["use_time_signatures"] else set()
    tempos = {Kind.TEMPO} if params["use_tempos"] else set()
    rests = {Kind.REST} if params["use_rests"] else set()
    onwards = {Kind.POSITION, Kind.BAR} | rests
    return {
        # Without a signature and a tempo at its start, a piece may begin with a rest.
        Kind.BOS: {Kind.BAR} if signatures or tempos else {Kind.BAR} | rests,
        Kind.BAR: signatures or {Kind.POSITION, Kind.BAR},
        Kind.TIME_SIGNATURE: onwards,
        Kind.POSITION: tempos | note,
        Kind.TEMPO: onwards | note,
        Kind.DURATION: onwards | note,
        Kind.REST: onwards | signatures,
    }


def _tsd(note: set[Kind], params: Mapping[str, Any]) -> dict[Kind, set[Kind]]:
    signatures = {Kind.TIME_SIGNATURE} if params["use_time_signatures"] else set()
    tempos = {Kind.TEMPO} if params["use_tempos"] else set()
    rests = {Kind.REST} if params["use_rests"] else set()
    onwards = {Kind.TIME_SHIFT} | rests
    return {
        Kind.BOS: signatures or tempos or onwards | note,
        Kind.TIME_SIGNATURE: tempos | onwards | note,
        Kind.TEMPO: onwards | note,
        Kind.DURATION: onwards | note,
        Kind.REST: onwards | signatures | tempos | note,
        Kind.TIME_SHIFT: {Kind.TIME_SHIFT} | signatures | tempos | note,
    }


def _structured(note: set[Kind], params: Mapping[str, Any]) -> dict[Kind, set[Kind]]:
    return {Kind.BOS: {Kind.TIME_SHIFT}, Kind.DURATION: {Kind.TIME_SHIFT}, Kind.TIME_SHIFT: note}
