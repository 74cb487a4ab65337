"""Notes become sound with numpy alone: no sound font, no synthesiser to install. The same notes always give the same samples."""

from __future__ import annotations

import os
import warnings
import wave
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from musictrain.listening.drums import drum_stroke
from musictrain.listening.timbres import Sound, fade_in, held_note, timbre_of
from musictrain.notes import Notes, Tempo

SAMPLE_RATE = 32_000
DEFAULT_BPM = 120.0
LIMIT_MINUTES = 20.0
SHORTEST_NOTE_SECONDS = 0.03
VELOCITY_STEP = 8  # velocities are rendered in classes of eight: notes of a class and pitch share one rendering
TAIL_SECONDS = 0.7
MASTER_GAIN = 0.32  # four loud voices together stay just below the limiter
ROOM_SECONDS, ROOM_SHARE = 0.9, 0.16


def seconds_at(beats: ArrayLike, tempos: tuple[Tempo, ...] = ()) -> NDArray[np.float64]:
    """When each of ``beats`` sounds, in seconds from beat 0; 120 quarter notes a minute until the first tempo.

    Raises:
        ValueError: if a tempo is not a positive number.

    >>> seconds_at([0, 2, 4], (Tempo(0, 60), Tempo(2, 120))).tolist()
    [0.0, 2.0, 3.0]
    """
    changes = sorted(tempos, key=lambda tempo: tempo.onset)
    if not changes or changes[0].onset > 0:
        changes = [Tempo(0.0, DEFAULT_BPM), *changes]
    onset, bpm = np.array(changes, dtype=np.float64).T
    if not (np.isfinite(bpm) & (bpm > 0)).all():
        raise ValueError(f"Tempos must be positive quarter notes a minute, but one is {bpm[~(np.isfinite(bpm) & (bpm > 0))][0]}.")
    start = np.concatenate([[0.0], np.cumsum(np.diff(onset) * 60.0 / bpm[:-1])])
    beats = np.asarray(beats, dtype=np.float64)
    piece = np.clip(np.searchsorted(onset, beats, side="right") - 1, 0, None)
    return start[piece] + (beats - onset[piece]) * 60.0 / bpm[piece]


def synthesise(
    notes: Notes, *, sample_rate: int = SAMPLE_RATE, bpm: float | None = None, stereo: bool = True, limit_minutes: float = LIMIT_MINUTES
) -> Sound:
    """The sound of a piece.

    Args:
        notes: what to play; programs choose the timbre by General MIDI family, drum notes the drum.
        sample_rate: samples a second, 8,000 to 96,000.
        bpm: quarter notes a minute throughout; None follows ``notes.tempos``.
        stereo: two channels, tracks spread between left and right; False gives one.
        limit_minutes: what lies beyond is left out, with a warning.

    Returns:
        float32 (samples, 2), or (samples,) if not stereo, within -1 and 1. No notes give half a second of silence.

    Raises:
        ValueError: if the sample rate, ``bpm`` or a tempo cannot be.
    """
    if not 8_000 <= sample_rate <= 96_000:
        raise ValueError(
            f"sample_rate is {sample_rate}, but must lie between 8000 and 96000 samples a second: 22050, 32000 and 44100 are usual."
        )
    start, stop = _times(notes, notes.tempos if bpm is None else (Tempo(0.0, bpm),))
    heard = start < 60.0 * limit_minutes
    if not heard.all():
        warnings.warn(f"The piece lasts {stop.max() / 60:.0f} minutes: only its first {limit_minutes:g} are rendered.", stacklevel=2)
        notes, start, stop = notes.select(heard), start[heard], np.minimum(stop[heard], 60.0 * limit_minutes)
    if not len(notes):
        return np.zeros((sample_rate // 2, 2) if stereo else sample_rate // 2, np.float32)
    mix = np.zeros((2, round((stop.max() + TAIL_SECONDS) * sample_rate)), np.float32)
    places = _places(notes)
    for index, sound in _strokes(notes, stop - start, sample_rate):
        first = round(start[index] * sample_rate)
        sound = sound[: mix.shape[1] - first]
        for side in (0, 1):
            mix[side, first : first + len(sound)] += places[side, index] * sound
    _add_room(mix, sample_rate)
    _limit(mix)
    fade = min(mix.shape[1], round(0.05 * sample_rate))
    mix[:, -fade:] *= fade_in(fade)[::-1]
    return np.ascontiguousarray(mix.T) if stereo else mix.mean(axis=0)


def write_wav(path: str | os.PathLike[str], samples: ArrayLike, sample_rate: int) -> None:
    """Write sound as a 16-bit .wav file.

    Args:
        path: the file.
        samples: (samples,) or (samples, channels), within -1 and 1; anything beyond is cut off.
        sample_rate: samples a second.
    """
    sound = np.asarray(samples, dtype=np.float32)
    whole = np.rint(np.clip(np.nan_to_num(sound), -1.0, 1.0) * 32767.0).astype("<i2")
    with wave.open(os.fspath(path), "wb") as file:
        file.setnchannels(1 if whole.ndim == 1 else whole.shape[1])
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(whole.tobytes())


def _times(notes: Notes, tempos: tuple[Tempo, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start and stop of every note in seconds."""
    start = np.maximum(seconds_at(notes.onset, tempos), 0.0)
    return start, np.maximum(seconds_at(notes.onset + notes.duration, tempos), start + SHORTEST_NOTE_SECONDS)


def _places(notes: Notes) -> NDArray[np.float32]:
    """Gain of every note on the left and on the right, (2, notes): tracks side by side, or one track's low notes left of its high ones."""
    tracks, position = np.unique(notes.track, return_inverse=True)
    by_track, by_pitch = np.linspace(0.38, 0.62, len(tracks))[position], np.clip(0.5 + (notes.pitch - 64) / 400.0, 0.38, 0.62)
    where = by_track if len(tracks) > 1 else by_pitch
    return np.stack([np.cos(where * np.pi / 2), np.sin(where * np.pi / 2)]).astype(np.float32)


def _strokes(notes: Notes, hold: NDArray[np.float64], rate: int) -> Iterator[tuple[int, Sound]]:
    """Every note's index and sound; notes of one timbre, pitch and velocity class share one rendering, as long as the longest of them."""
    loud = np.clip(notes.velocity // VELOCITY_STEP * VELOCITY_STEP + VELOCITY_STEP // 2, 1, 127)
    program = np.where(notes.drum, -1, notes.program)
    keys, group = np.unique(np.stack([program, notes.pitch, loud], axis=1), axis=0, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(group.ravel()))[:-1])
    for (number, pitch, velocity), members in zip(keys.tolist(), groups, strict=True):
        yield from _one_key(number, pitch, velocity, members, hold, rate)


def _one_key(
    program: int, pitch: int, velocity: int, members: NDArray[np.int64], hold: NDArray[np.float64], rate: int
) -> Iterator[tuple[int, Sound]]:
    """The notes of one instrument, pitch and loudness."""
    if program < 0:
        sound = drum_stroke(pitch, velocity, rate)
        yield from ((index, sound) for index in members.tolist())
        return
    timbre = timbre_of(program)
    held = held_note(timbre, pitch, velocity, float(hold[members].max()) + timbre.release_seconds, rate)
    fade = fade_in(round(timbre.release_seconds * rate))[::-1] ** 2
    for index in members.tolist():
        yield index, _released(held, round(hold[index] * rate), fade)


def _released(held: Sound, samples: int, fade: Sound) -> Sound:
    """A held note let go after ``samples``."""
    sound = held[: samples + len(fade)].copy()
    tail = max(0, len(sound) - samples)
    if tail:
        sound[samples:] *= fade[:tail]
    return sound


def _add_room(mix: NDArray[np.float32], rate: int) -> None:
    """Add to ``mix``, in place, the echo of a small hall: decaying noise, darker as it fades, different on the two sides."""
    length = round(ROOM_SECONDS * rate)
    time = np.arange(length) / rate
    noise = np.random.default_rng(8).standard_normal((2, length)) * np.exp(-6.9 * time / ROOM_SECONDS)
    spectrum = np.fft.rfft(noise) / (1 + (np.fft.rfftfreq(length, 1 / rate) / 2500.0) ** 2)
    echo = np.fft.irfft(spectrum, length).astype(np.float32)
    echo[:, : round(0.012 * rate)] = 0  # the first wall answers after 12 ms
    echo *= ROOM_SHARE / np.sqrt(np.sum(echo**2, axis=1, keepdims=True))
    _add_convolved(mix, echo)


def _add_convolved(mix: NDArray[np.float32], echo: NDArray[np.float32]) -> None:
    """Add to each side, in place, its convolution with its echo, cut to its own length.

    Block by block, so that memory stays small; from the last to the first, since what a block adds reaches later blocks only.
    """
    size = 1 << max(16, (2 * echo.shape[1]).bit_length())
    step = size - echo.shape[1] + 1
    filtered = np.fft.rfft(echo, size)
    for first in reversed(range(0, mix.shape[1], step)):
        block = np.fft.irfft(np.fft.rfft(mix[:, first : first + step], size) * filtered, size)
        mix[:, first : first + size] += block[:, : mix.shape[1] - first].astype(np.float32)


def _limit(mix: NDArray[np.float32]) -> None:
    """In place: turned down as a whole if it is loud for long, and bent smoothly below 1 where a few peaks remain."""
    usual_peak = MASTER_GAIN * float(np.quantile(np.abs(mix[:, ::7]), 0.999))
    mix *= np.float32(MASTER_GAIN * min(1.0, 0.7 / max(usual_peak, 1e-9)))
    for side in mix:
        size = np.abs(side)
        over = size > 0.8
        side[over] = np.sign(side[over]) * (0.8 + 0.18 * np.tanh((size[over] - 0.8) / 0.18))
