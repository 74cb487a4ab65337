"""MidiTok's REMI, TSD and Structured behind the tokenizer protocol: pinned settings, one flat sequence, a grammar, named errors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musictrain.data.tokenizers.event_grammar import EventGrammar
from musictrain.data.tokenizers.event_notes import check_times, decoded_notes, notes_to_encode
from musictrain.data.tokenizers.event_vocabulary import EventVocabulary, Kind
from musictrain.data.tokenizers.fingerprints import fingerprint_of
from musictrain.data.tokenizers.midi_tok_params import PINNED, miditok_arguments, resolve_params
from musictrain.data.tokenizers.protocol import Grammar, TokenIds
from musictrain.notes import Notes


class MidiTokTokenizer:
    """A piece as one stream of events, with MidiTok 3.1 doing the encoding and the decoding.

    All tracks merge into one stream, in which a Program token before each note says who plays; with ``use_programs: false`` every
    pitched note is written as a piano's. The stream holds onset, duration, pitch, velocity (in bins), program, drum, and, except
    for Structured, tempos and time signatures; it does not hold tracks. What is rounded: see ``encode``.

    Args:
        kind: REMI (bars and positions), TSD (time shifts) or Structured (a strict order of token types; no tempo, no bars).
        params: changes to the pinned settings, by the names of ``miditok.TokenizerConfig``; see ``midi_tok_params``.

    Raises:
        ValueError: for a kind or a setting that is unknown, not offered, or contradicts another.

    Source: MidiTok (Fradet et al., ISMIR 2021); REMI (Huang & Yang, 2020); Structured (Hadjeres & Crestel, 2021).
    """

    tokens_per_step = 1
    pad_id = 0
    begin: tuple[int, ...] = (1,)
    end: tuple[int, ...] = (2,)

    def __init__(self, kind: str = "REMI", params: dict[str, Any] | None = None) -> None:
        self.kind = self.name = kind
        self.params = resolve_params(kind, params)
        self._miditok = _make_miditok(kind, self.params)
        self._names: list[str] = sorted(self._miditok.vocab, key=self._miditok.vocab.get)
        self._vocabulary = EventVocabulary(self._names, max(self.params["beat_res"].values()))
        self.vocab_size = len(self._names)

    def encode(self, notes: Notes) -> TokenIds:
        """The piece as (time,) token ids; notes that start together stand in the order of program and pitch, drums after pianos.

        Onsets go to the nearest position, durations to the nearest in ``beat_res``, velocities and tempos to the nearest bin, a
        signature to the next bar line. A signature without a token is written as one of the same length (2/2 as 4/4), or left out
        if there is none. Notes beyond the pitch ranges or the programs are left out, as MidiTok does.

        Raises:
            ValueError: if more than a twentieth of the notes would be left out, if there are drums without ``use_programs``, if
                times are impossible, if Structured meets a gap longer than its longest TimeShift, or if MidiTok fails.
        """
        check_times(notes)
        held = notes_to_encode(notes, self.kind, self.params)
        try:
            return np.array(self._encode(held), np.int64)
        # MidiTok lets KeyError, ZeroDivisionError and others through for scores it did not foresee.
        except Exception as error:
            raise ValueError(f"MidiTok's {self.kind} cannot hold this piece ({len(notes)} notes): {_reason(error)}.") from error

    def _encode(self, notes: Notes) -> list[int]:
        from musictrain.data.midi import score_from_notes

        score = self._miditok.preprocess_score(score_from_notes(notes))
        for track in score.tracks:
            track.notes = _by_time_and_pitch(track.notes)
        tokens = self._miditok.encode(score, no_preprocess_score=True)
        return tokens.ids if self.params["use_programs"] else tokens[0].ids

    def decode(self, tokens: TokenIds) -> Notes:
        """The notes of any token sequence; a token the grammar does not allow is dropped, a note it cuts short too."""
        from miditok import TokSequence

        from musictrain.data.midi import notes_from_score

        kept = self._grammatical(np.asarray(tokens, np.int64).reshape(-1))
        sequence = TokSequence(tokens=[self._names[token] for token in kept], ids=kept.tolist())
        score = self._miditok.decode(sequence if self.params["use_programs"] else [sequence])
        return decoded_notes(notes_from_score(score), self.params)

    def _grammatical(self, tokens: TokenIds) -> TokenIds:
        """The tokens a lenient grammar allows, without special tokens; of a note cut short, nothing stays."""
        tokens = tokens[(tokens > self.end[0]) & (tokens < self.vocab_size)]
        if not self._lenient_grammar.keeps(tokens):
            tokens = self._walk(tokens)
        inside = _INSIDE_A_NOTE[self._vocabulary.kinds[tokens]]
        return tokens[: len(tokens) - int(np.argmin(inside[::-1])) if not inside.all() else 0]

    def _walk(self, tokens: TokenIds) -> TokenIds:
        """What remains when every token that is not allowed is dropped, together with the note it stands in."""
        grammar, kinds = self._lenient_grammar, self._vocabulary.kinds
        state = whole = grammar.start(1)
        kept: list[int] = []
        num_whole = 0
        for token in tokens:
            if not grammar.allowed(state)[0, token]:
                state = whole
                del kept[num_whole:]
                if not grammar.allowed(state)[0, token]:
                    continue
            kept.append(int(token))
            state = grammar.advance(state, token[None])
            if not _INSIDE_A_NOTE[kinds[token]]:
                whole, num_whole = state, len(kept)
        return np.array(kept, np.int64)

    def token_name(self, token: int) -> str:
        """MidiTok's name of a token, ``Pitch_60``; PAD, BOS and EOS for the special ones."""
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"{self} has tokens 0 to {self.vocab_size - 1}, not {token}.")
        return self._names[token].removesuffix("_None") if token <= self.end[0] else self._names[token]

    def transposition(self, semitones: int) -> TokenIds:
        """Every Pitch token's twin ``semitones`` higher, -1 out of range; drums and all else stay, (vocab,)."""
        table = np.arange(self.vocab_size)
        pitches = np.nonzero(self._vocabulary.kinds == Kind.PITCH)[0]
        moved = pitches + semitones
        table[pitches] = np.where((moved >= pitches[0]) & (moved <= pitches[-1]), moved, -1)
        return table

    def grammar(self) -> Grammar:
        """Bars, positions and the parts of a note, each in its place."""
        return EventGrammar(self._vocabulary, self.kind, self.params)

    @cached_property
    def _lenient_grammar(self) -> EventGrammar:
        return EventGrammar(self._vocabulary, self.kind, self.params, lenient=True)

    def config(self) -> dict[str, Any]:
        """The kind and every setting, the pinned ones too."""
        return {"kind": self.kind, "params": self.params}

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits of class, settings and token names."""
        return fingerprint_of(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind, self.params)

    def __repr__(self) -> str:
        changes = {name: value for name, value in self.params.items() if value != PINNED[self.kind][name]}
        return f"MidiTokTokenizer(kind={self.kind!r}" + (f", params={changes!r})" if changes else ")")


_INSIDE_A_NOTE = np.isin(np.arange(len(Kind)), (Kind.PROGRAM, Kind.DRUMS, Kind.PITCH, Kind.DRUM, Kind.VELOCITY))


def _make_miditok(kind: str, params: Mapping[str, Any]) -> Any:
    # Imported here: MidiTok brings torch along and takes seconds.
    import miditok

    try:
        return getattr(miditok, kind)(miditok.TokenizerConfig(**miditok_arguments(params)))
    except Exception as error:
        raise ValueError(f"MidiTok refuses these settings of {kind}: {_reason(error)}.") from error


def _by_time_and_pitch(notes: Any) -> Any:
    """A symusic track's notes with a chord's in order of pitch: after the grid has joined onsets, they are in no order."""
    import symusic

    columns = notes.numpy()
    order: NDArray[np.int64] = np.lexsort((columns["velocity"], columns["duration"], columns["pitch"], columns["time"]))
    return symusic.Note.from_numpy(**{name: column[order] for name, column in columns.items()})


def _reason(error: Exception) -> str:
    first_line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first_line}".rstrip(": .")
