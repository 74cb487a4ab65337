"""What each score of samples is called on the page, and what it says: in one sentence, with the direction that is better.

Conventions: most scores are two-sided, and the corpus' own band says what is right. Where there is a direction, the sentence ends with it.
Shares are numbers from 0 to 1, as they are logged and as the guards speak of them.
The sentences of single measures are those of ``musictrain.metrics``, which cannot be imported here: a test holds them together.
"""

from __future__ import annotations

from typing import NamedTuple

CORPUS_BAND = "corpus 10–90 %"
_OWN_BAND, _SETS_BAND = "validation pieces", "9 of 10 sets of the corpus"
_PER_CHANGE, _PER_SONORITY = "per 100 changes", "per 100 sonorities"
_AS_BACH = "As often as in the corpus is best."


class Score(NamedTuple):
    """One score: its title, its unit, a sentence on it, and what the band behind it is."""

    title: str
    unit: str
    about: str
    band: str = CORPUS_BAND


SCORES = {
    "in_band": Score("Measures that lie where the corpus does", "", "Share of all measures whose mean lies in its band. Higher is better."),
    "copy_excess": Score(
        *("Copied beyond what is usual", ""),
        "Copy rate less that of pieces which the model has not seen. 0 is best; far above it music is played by heart.",
    ),
    "copy_rate": Score(
        *("Copied from the training set", ""),
        "Share of windows of bars that stand in a training piece, at any pitch. Lower is better, down to what is usual.",
        _OWN_BAND,
    ),
    "longest_match": Score(
        *("Longest passage of a training piece", "bars"),
        "What a sample and a training piece have in common at most, at any pitch. Lower is better, down to what is usual.",
        _OWN_BAND,
    ),
    "longest_match_excess": Score(
        *("Longest copied passage beyond what is usual", "bars"),
        "By how many bars it is longer than any that a validation piece has in common with the training set. 0 is best.",
    ),
    "bar_repetition": Score("Bars repeated", "", "Share of bars the piece has already had, note for note: near 1 is a loop."),
    "motif_repetition": Score(
        *("Motifs repeated", ""),
        "Share of turns of five notes the piece has already had, at any pitch: near 1 is a loop.",
    ),
    "token_validity": Score(
        *("Grammar known", ""),
        "What the network by itself gives to tokens that keep the tokenizer's grammar, in real music. Higher is better.",
    ),
    "frechet_excess": Score(
        *("Distance to the corpus", ""),
        "In all features at once, less what chance gives sets of this size: 0 is as near as the corpus is to itself. Lower is better.",
    ),
    "chorale_rule_distance": Score(
        *("Four-part writing, distance to the corpus", ""),
        "How far the rates of the five rules lie from the corpus' own, on average. Lower is better.",
    ),
    "parallel_fifths": Score(
        "Parallel fifths", _PER_CHANGE, f"Two voices that move together from a fifth to a fifth. {_AS_BACH}", _SETS_BAND
    ),
    "parallel_octaves": Score(
        "Parallel octaves", _PER_CHANGE, f"Two voices that move together from an octave to one. {_AS_BACH}", _SETS_BAND
    ),
    "direct_intervals": Score(
        *("Direct fifths and octaves", _PER_CHANGE),
        f"Soprano and bass that move in one direction to a fifth or an octave, the soprano by a leap. {_AS_BACH}",
        _SETS_BAND,
    ),
    "voice_crossing": Score("Crossed voices", _PER_SONORITY, f"A voice that lies below the next lower one. {_AS_BACH}", _SETS_BAND),
    "wide_spacing": Score("Wide spacing", _PER_SONORITY, f"Upper voices more than an octave apart. {_AS_BACH}", _SETS_BAND),
    "pitch_class_entropy": Score(
        *("Pitch-class entropy", "bits"),
        "How evenly the piece uses the twelve pitch classes: 0 is one note in its octaves, 3.58 all twelve alike.",
    ),
    "pitch_class_entropy_1_bar": Score(
        *("Pitch-class entropy of a bar", "bits"),
        "How many pitch classes a bar uses, on average: low is a held note, high is no harmony.",
    ),
    "pitch_class_entropy_4_bars": Score(
        *("Pitch-class entropy of four bars", "bits"),
        "How many pitch classes four bars use, on average: low is a loop, high is no key.",
    ),
    "pitch_class_transition_entropy": Score(
        *("Pitch-class transition entropy", "bits"),
        "How uncertain a line's next pitch class is when its last is known: 0 is no surprise.",
    ),
    "scale_consistency": Score("Scale consistency", "", "Share of notes that one major or minor scale holds: 1 is a piece in one key."),
    "groove_similarity": Score(
        "Groove similarity", "", "How alike the rhythms of all pairs of bars are: 1 is the same rhythm in every bar."
    ),
    "groove_similarity_adjacent": Score(
        *("Groove similarity of neighbours", ""),
        "How alike the rhythms of neighbouring bars are: 1 is the same rhythm in every bar.",
    ),
    "empty_bar_rate": Score("Empty bars", "", "Share of bars in which no note starts."),
    "mean_inter_onset_interval": Score(
        "From onset to onset", "beats", "How long it is from one onset to the next, whichever voice has it."
    ),
    "polyphony": Score("Polyphony", "notes", "How many notes sound at once while any sounds."),
    "polyphony_rate": Score("Polyphony rate", "", "Share of the sounding time in which two notes or more sound."),
    "pitch_range": Score("Pitch range", "semitones", "How far it is from the lowest note to the highest."),
    "notes_per_beat": Score("Notes per beat", "", "How many notes start in a beat."),
    "notes_per_bar": Score("Notes per bar", "", "How many notes start in a bar."),
    "mean_note_length": Score("Note length", "beats", "How long notes are."),
}
"""By the name under ``val/``, in the order in which they are shown: what shows collapse and copying first."""
