"""How a drum sounds: noise bursts and falling sines, by families of the General MIDI drum map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from musictrain.listening.timbres import Sound, fade_in


@dataclass(frozen=True)
class Drum:
    """A drum stroke: a sine that falls in pitch, plus noise above a corner.

    Args:
        tone_hz: where the sine ends up; 0 for none.
        drop: how many times higher it starts.
        tone_seconds, noise_seconds: time to fall by 60 dB.
        noise: strength of the noise beside the sine.
        above_hz: the noise is what lies above this corner.
        overtones: further sines, as ratios of ``tone_hz``.
        gain: loudness beside the piano.
    """

    tone_hz: float = 0.0
    drop: float = 1.0
    tone_seconds: float = 0.3
    noise: float = 0.0
    noise_seconds: float = 0.1
    above_hz: float = 1000.0
    overtones: tuple[float, ...] = ()
    gain: float = 0.6


KICK = Drum(tone_hz=52, drop=3.0, tone_seconds=0.45, noise=0.08, noise_seconds=0.02, gain=1.0)
SNARE = Drum(tone_hz=185, drop=1.3, tone_seconds=0.2, noise=0.9, noise_seconds=0.28, above_hz=1500, gain=0.6)
STICK = Drum(tone_hz=1100, tone_seconds=0.06, noise=0.3, noise_seconds=0.03, above_hz=2000, gain=0.4)
CLAP = Drum(noise=1.0, noise_seconds=0.22, above_hz=1200, gain=0.5)
CLOSED_HAT = Drum(noise=1.0, noise_seconds=0.09, above_hz=6500, gain=0.3)
OPEN_HAT = Drum(noise=1.0, noise_seconds=0.6, above_hz=6000, gain=0.28)
CRASH = Drum(noise=1.0, noise_seconds=2.2, above_hz=3500, gain=0.32)
RIDE = Drum(tone_hz=2900, tone_seconds=0.8, overtones=(1.34, 1.87), noise=0.7, noise_seconds=1.2, above_hz=5000, gain=0.22)
SHAKER = Drum(noise=1.0, noise_seconds=0.08, above_hz=5000, gain=0.25)
BLOCK_OF_WOOD = Drum(tone_hz=900, tone_seconds=0.12, overtones=(1.52,), gain=0.4)
COWBELL = Drum(tone_hz=560, tone_seconds=0.35, overtones=(1.48, 2.1), gain=0.35)
TRIANGLE = Drum(tone_hz=3800, tone_seconds=1.2, overtones=(1.51, 2.3), gain=0.2)
TOMS = {pitch: Drum(tone_hz=hz, drop=1.6, tone_seconds=0.5, noise=0.1, noise_seconds=0.05, gain=0.8) for pitch, hz in
        zip((41, 43, 45, 47, 48, 50), (82, 98, 116, 138, 164, 196), strict=True)}  # fmt: skip
HAND_DRUMS = {pitch: Drum(tone_hz=hz, drop=1.15, tone_seconds=0.25, noise=0.12, noise_seconds=0.03, gain=0.6) for pitch, hz in
              zip((60, 61, 62, 63, 64, 65, 66), (330, 220, 350, 260, 180, 420, 300), strict=True)}  # fmt: skip

DRUM_MAP = {
    35: KICK, 36: KICK, 37: STICK, 38: SNARE, 39: CLAP, 40: SNARE, 42: CLOSED_HAT, 44: CLOSED_HAT, 46: OPEN_HAT, 49: CRASH, 51: RIDE,
    52: CRASH, 53: RIDE, 54: SHAKER, 55: CRASH, 56: COWBELL, 57: CRASH, 59: RIDE, 67: COWBELL, 68: COWBELL, 69: SHAKER, 70: SHAKER,
    73: SHAKER, 74: SHAKER, 75: BLOCK_OF_WOOD, 76: BLOCK_OF_WOOD, 77: BLOCK_OF_WOOD, 80: TRIANGLE, 81: TRIANGLE, 82: SHAKER,
    **TOMS, **HAND_DRUMS,
}  # fmt: skip


def drum_stroke(pitch: int, velocity: int, rate: int) -> Sound:
    """One stroke of the drum that General MIDI puts at ``pitch``; numbers without a drum are a short stick.

    The noise is the same at every call: a rendering is a pure function of its notes.

    Returns:
        float32 (samples,) of one channel, at ``rate`` samples a second.
    """
    drum = DRUM_MAP.get(pitch, STICK)
    loud = min(max(velocity, 1), 127) / 127.0
    longest = max(drum.tone_seconds if drum.tone_hz else 0.0, drum.noise_seconds if drum.noise else 0.0)
    time = np.arange(round(longest * rate)) / rate
    sound = _tone(drum, time) + drum.noise * _noise_above(drum.above_hz, len(time), rate) * np.exp(-6.9 * time / drum.noise_seconds)
    edge = max(2, round(0.001 * rate))
    sound[:edge] *= fade_in(edge)
    sound[-edge:] *= fade_in(edge)[::-1]
    return (drum.gain * loud**1.5 * sound).astype(np.float32)


def _tone(drum: Drum, time: np.ndarray) -> np.ndarray:
    """The falling sine and its overtones."""
    if not drum.tone_hz:
        return 0.0 * time
    # The pitch falls to within 5 % in about 40 ms: the ear hears a thump, not a slide.
    fall = 0.013
    cycles = drum.tone_hz * (time + (drum.drop - 1.0) * fall * (1.0 - np.exp(-time / fall)))
    ratios = (1.0, *drum.overtones)
    tone = sum(np.sin(2 * np.pi * cycles * ratio) / (1 + index) for index, ratio in enumerate(ratios))
    return tone * np.exp(-6.9 * time / drum.tone_seconds)


def _noise_above(corner_hz: float, samples: int, rate: int) -> np.ndarray:
    """White noise without what lies below the corner, of strength about 1."""
    spectrum = np.fft.rfft(np.random.default_rng(samples).standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / rate)
    noise = np.fft.irfft(spectrum / (1 + (corner_hz / np.maximum(frequency, 1.0)) ** 4), samples)
    return noise / max(float(np.abs(noise).max()), 1e-9)
