"""How an instrument sounds: each General MIDI family as a handful of decaying partials, rendered by one matrix product.

Conventions: frequencies in Hz, times in seconds, sounds are float32 arrays of one channel whose loudest notes peak near 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Sound = NDArray[np.float32]

BLOCK = 256  # samples per column of the matrix product
LONGEST_HOLD_SECONDS = 60.0
INAUDIBLE = 1e-3  # a partial that has fallen by 60 dB is over
HEARING_LIMIT_HZ = 12_000.0


@dataclass(frozen=True)
class Timbre:
    """The recipe of a family of instruments.

    Args:
        tilt: partial k is k ** -tilt as strong as the first.
        corner_hz: above it partials fade; soft notes have a lower one.
        even: strength of the even partials, 0 for a clarinet.
        strike: where a string is struck or plucked, as a share of its length; 0 for none.
        inharmonicity: how far partials stretch: k * sqrt(1 + inharmonicity * k**2).
        ratios: frequencies of the partials over the first, instead of 1, 2, 3...
        decay_seconds: time to fall by 60 dB at middle C, shorter above it; 0 for an instrument that sustains.
        damping: how much faster upper partials decay.
        strings: (cents, strength, decay) of each unison string or player: their beating is the warmth of the sound.
        tremolo: how much the loudness swings five times a second once the note has settled.
        attack_seconds, release_seconds: how long the note fades in, and out after its end.
        gain: loudness beside the piano.
    """

    tilt: float = 1.0
    corner_hz: float = 4000.0
    even: float = 1.0
    strike: float = 0.0
    inharmonicity: float = 0.0
    ratios: tuple[float, ...] = ()
    decay_seconds: float = 0.0
    damping: float = 0.0
    strings: tuple[tuple[float, float, float], ...] = ((0.0, 1.0, 1.0),)
    tremolo: float = 0.0
    attack_seconds: float = 0.02
    release_seconds: float = 0.12
    gain: float = 0.8


ENSEMBLE = ((0.0, 1.0, 1.0), (-6.0, 0.6, 1.0), (7.0, 0.6, 1.0))
PIANO = Timbre(
    tilt=0.9, corner_hz=2200, strike=0.12, inharmonicity=3.5e-4, decay_seconds=7.0, damping=0.3,
    strings=((0.0, 1.0, 0.55), (0.7, 0.5, 1.6)), attack_seconds=0.003, release_seconds=0.22, gain=1.0,
)  # fmt: skip
BELL = Timbre(ratios=(1.0, 2.0, 3.01, 4.1, 5.43, 6.8), tilt=1.1, decay_seconds=4.0, damping=0.6, attack_seconds=0.002, release_seconds=0.4)
MALLET = Timbre(ratios=(1.0, 3.93, 9.6), tilt=1.2, decay_seconds=1.6, damping=0.8, attack_seconds=0.002, release_seconds=0.2)
ORGAN = Timbre(tilt=1.1, corner_hz=3500, strings=((0.0, 1.0, 1.0), (1.5, 0.4, 1.0)), attack_seconds=0.03, release_seconds=0.1, gain=0.6)
GUITAR = Timbre(tilt=1.0, corner_hz=3000, strike=0.18, inharmonicity=1e-4, decay_seconds=4.0, damping=0.7, attack_seconds=0.002)
BASS = Timbre(tilt=1.2, corner_hz=1200, strike=0.2, decay_seconds=4.5, damping=0.6, attack_seconds=0.004, gain=1.0)
STRINGS = Timbre(tilt=1.15, corner_hz=2600, strings=ENSEMBLE, tremolo=0.06, attack_seconds=0.08, release_seconds=0.25, gain=0.55)
CHOIR = Timbre(tilt=1.5, corner_hz=1500, strings=ENSEMBLE, tremolo=0.05, attack_seconds=0.1, release_seconds=0.3, gain=0.65)
BRASS = Timbre(tilt=0.8, corner_hz=2000, tremolo=0.04, attack_seconds=0.04, release_seconds=0.1, gain=0.55)
REED = Timbre(tilt=0.9, corner_hz=2500, even=0.25, tremolo=0.05, attack_seconds=0.03, release_seconds=0.08, gain=0.55)
FLUTE = Timbre(tilt=2.0, corner_hz=2500, even=0.7, tremolo=0.09, attack_seconds=0.05, release_seconds=0.12, gain=0.7)
LEAD = Timbre(tilt=1.0, corner_hz=3500, strings=((0.0, 1.0, 1.0), (5.0, 0.7, 1.0)), attack_seconds=0.01, release_seconds=0.08, gain=0.45)
PAD = Timbre(tilt=1.4, corner_hz=1800, strings=ENSEMBLE, attack_seconds=0.2, release_seconds=0.5, gain=0.55)

FAMILIES = (PIANO, BELL, ORGAN, GUITAR, BASS, STRINGS, STRINGS, BRASS, REED, FLUTE, LEAD, PAD, PAD, GUITAR, MALLET, PAD)
EXCEPTIONS = {12: MALLET, 13: MALLET, 45: GUITAR, 46: GUITAR, 47: MALLET, 52: CHOIR, 53: CHOIR, 54: CHOIR}


def timbre_of(program: int) -> Timbre:
    """The timbre of a General MIDI program, 0 to 127; anything else plays the piano."""
    return EXCEPTIONS.get(program, FAMILIES[program // 8]) if 0 <= program <= 127 else PIANO


def frequency_hz(pitch: float) -> float:
    """Equal temperament, A4 = pitch 69 = 440 Hz."""
    return 440.0 * 2.0 ** ((pitch - 69.0) / 12.0)


def held_note(timbre: Timbre, pitch: int, velocity: int, seconds: float, rate: int) -> Sound:
    """A key held down for ``seconds``, with its attack but without a release: any beginning of it is a shorter held note.

    Args:
        timbre: which family of instruments.
        pitch: MIDI number.
        velocity: 1 to 127: louder and brighter.
        seconds: at most `LONGEST_HOLD_SECONDS`; a decaying note ends earlier, when it has fallen by 60 dB.
        rate: samples a second.

    Returns:
        float32 (samples,).
    """
    frequencies, strengths, decays = _partials(timbre, pitch, velocity, rate)
    if not len(frequencies):
        return np.zeros(BLOCK, np.float32)
    longest = min(seconds, LONGEST_HOLD_SECONDS)
    if timbre.decay_seconds:
        longest = min(longest, float(-np.log(INAUDIBLE) / decays.min()))
    sound = _sum_of_partials(frequencies, strengths, decays, max(1, round(longest * rate)), rate)
    if timbre.tremolo:
        time = np.arange(len(sound), dtype=np.float32) / rate
        sound *= 1 + timbre.tremolo * np.minimum(1, 2 * time) * np.sin(2 * np.pi * 5.2 * time)
    rise = min(len(sound), max(2, round(timbre.attack_seconds * rate)))
    sound[:rise] *= fade_in(rise)
    return sound


def fade_in(samples: int) -> Sound:
    """Half a cosine from 0 to 1: no edge that could click."""
    return (0.5 - 0.5 * np.cos(np.pi * np.arange(samples) / samples)).astype(np.float32)


def _partials(timbre: Timbre, pitch: int, velocity: int, rate: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Frequency (Hz), strength and decay (1/s) of every partial of every string below the hearing limit."""
    fundamental, loud = frequency_hz(pitch), min(max(velocity, 1), 127) / 127.0
    limit = min(HEARING_LIMIT_HZ, 0.45 * rate)
    number = np.arange(1, 1 + min(40, max(1, int(limit / fundamental))), dtype=np.float64)
    ratio = number * np.sqrt((1 + timbre.inharmonicity * number**2) / (1 + timbre.inharmonicity))
    if timbre.ratios:
        ratio = np.array(timbre.ratios)
        number = np.arange(1.0, 1 + len(ratio))
    strength = number**-timbre.tilt * np.exp(-ratio * fundamental / (timbre.corner_hz * (0.35 + 1.3 * loud)))
    strength *= np.where(number % 2 == 0, timbre.even, 1.0)
    if timbre.strike:
        strength *= np.abs(np.sin(np.pi * number * timbre.strike)) + 0.05
    strength *= timbre.gain * loud**1.5 / np.sqrt(max(np.sum(strength**2), 1e-12))
    decay = 0.0 * number
    if timbre.decay_seconds:
        decay = -np.log(INAUDIBLE) / timbre.decay_seconds * 2.0 ** ((pitch - 60) / 18.0) * (1 + timbre.damping * (ratio - 1))
    strings = np.array(timbre.strings)
    share = strings[:, 1] / np.sqrt(np.sum(strings[:, 1] ** 2))
    frequencies = np.outer(2.0 ** (strings[:, 0] / 1200.0), ratio * fundamental).ravel()
    audible = frequencies < limit
    return frequencies[audible], np.outer(share, strength).ravel()[audible], np.outer(1 / strings[:, 2], decay).ravel()[audible]


def _sum_of_partials(
    frequencies: NDArray[np.float64], strengths: NDArray[np.float64], decays: NDArray[np.float64], samples: int, rate: int
) -> Sound:
    """Decaying sines, summed: exp((i w - d)(b L + j)) is a product of a factor of block b and one of sample j, so BLAS does the work."""
    exponent = (2j * np.pi * frequencies - decays) / rate
    phase = np.exp(2j * np.pi * 0.6180339887 * np.arange(len(frequencies)) ** 2)  # spread, or all partials peak at once
    blocks = np.exp(np.outer(np.arange(0, samples, BLOCK), exponent)) * (strengths * phase)
    within = np.exp(np.outer(exponent, np.arange(BLOCK)))
    left = np.concatenate([blocks.real, -blocks.imag], axis=1).astype(np.float32)
    right = np.concatenate([within.real, within.imag], axis=0).astype(np.float32)
    return (left @ right).reshape(-1)[:samples]
