"""What the synthesiser promises: pitch, time, loudness, and no sample beyond full scale."""

from __future__ import annotations

import itertools
import wave
from pathlib import Path

import numpy as np
import pytest

from musictrain.listening.synthesis import TAIL_SECONDS, _add_convolved, seconds_at, synthesise, write_wav
from musictrain.listening.timbres import BLOCK, PIANO, STRINGS, held_note
from musictrain.notes import Notes, Tempo

RATE = 22_050


def mono(notes: Notes, **options: float) -> np.ndarray:
    return synthesise(notes, sample_rate=RATE, stereo=False, **options)  # type: ignore[arg-type]


def fundamental_hz(sound: np.ndarray) -> float:
    """The strongest frequency, from a long zero-padded FFT."""
    size = 1 << 19
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), size))
    return float(np.argmax(spectrum) * RATE / size)


def onsets_seconds(sound: np.ndarray) -> list[float]:
    """Where 20 ms after are much louder than the 20 ms before."""
    frames = np.abs(sound[: len(sound) // 220 * 220]).reshape(-1, 220).max(axis=1)
    rises = [i for i in range(2, len(frames) - 2) if frames[i : i + 2].max() > 3 * frames[i - 2 : i].max() + 1e-3]
    return [rises[i] * 220 / RATE for i in range(len(rises)) if i == 0 or rises[i] - rises[i - 1] > 5]


@pytest.mark.parametrize("program", [0, 19, 40, 52, 56, 71, 73])
def test_a4_sounds_at_440_hz(program: int) -> None:
    sound = mono(Notes.from_rows([(0, 4, 69)], program=[program]))
    assert fundamental_hz(sound[: 2 * RATE]) == pytest.approx(440.0, abs=1.0)


def test_an_octave_doubles_the_frequency() -> None:
    low, high = (fundamental_hz(mono(Notes.from_rows([(0, 4, pitch)], program=[73]))) for pitch in (60, 72))
    assert high / low == pytest.approx(2.0, abs=0.005)


def test_no_notes_are_silence() -> None:
    sound = synthesise(Notes.empty(), sample_rate=RATE)
    assert sound.shape == (RATE // 2, 2)
    assert not sound.any()


def test_a_piece_lasts_as_long_as_its_last_note_and_the_tail() -> None:
    assert len(mono(Notes.from_rows([(0, 1, 60), (7, 1, 60)]), bpm=60)) / RATE == pytest.approx(8 + TAIL_SECONDS, abs=0.001)


def test_a_half_note_sounds_twice_as_long_as_a_quarter() -> None:
    quarter, half = (len(mono(Notes.from_rows([(0, beats, 60)]), bpm=90)) / RATE - TAIL_SECONDS for beats in (1, 2))
    assert quarter == pytest.approx(60 / 90, abs=0.001)
    assert half == pytest.approx(2 * quarter, abs=0.001)


def test_tempo_changes_are_respected() -> None:
    assert seconds_at([0, 1, 2, 3, 4], (Tempo(0, 60), Tempo(2, 120))).tolist() == [0.0, 1.0, 2.0, 2.5, 3.0]
    rows = [(beat, 0.25, 60) for beat in range(1, 6)]
    heard = onsets_seconds(mono(Notes.from_rows(rows, tempos=(Tempo(0, 60), Tempo(3, 120)))))  # type: ignore[arg-type]
    assert heard == pytest.approx([1.0, 2.0, 3.0, 3.5, 4.0], abs=0.02)


def test_until_the_first_tempo_120_quarter_notes_a_minute() -> None:
    assert seconds_at([2, 4], (Tempo(2, 60),)).tolist() == [1.0, 3.0]
    assert seconds_at([2]).tolist() == [1.0]


def test_a_given_bpm_overrides_the_tempos() -> None:
    slow = Notes.from_rows([(0, 4, 60)], tempos=(Tempo(0, 10),))  # type: ignore[arg-type]
    assert len(mono(slow, bpm=240)) / RATE == pytest.approx(1 + TAIL_SECONDS, abs=0.001)


@pytest.mark.parametrize("drum", [False, True])
def test_loudness_grows_with_velocity(drum: bool) -> None:
    loudness = [mono(Notes.from_rows([(0, 1, 38)], velocity=[v], drum=[drum])).std() for v in (20, 50, 80, 110, 127)]
    assert all(b > 1.1 * a for a, b in itertools.pairwise(loudness))


def test_loud_notes_are_brighter() -> None:
    def centre_hz(velocity: int) -> float:
        power = np.abs(np.fft.rfft(held_note(PIANO, 60, velocity, 1.0, RATE))) ** 2
        return float((power * np.fft.rfftfreq(RATE, 1 / RATE)[: len(power)]).sum() / power.sum())

    assert centre_hz(120) > 1.2 * centre_hz(30)


def test_many_loud_notes_do_not_clip() -> None:
    rng = np.random.default_rng(0)
    crowd = Notes(
        rng.uniform(0, 4, 400), rng.uniform(0.1, 4, 400), rng.integers(30, 100, 400), np.full(400, 127), drum=rng.random(400) < 0.3
    )
    sound = synthesise(crowd, sample_rate=RATE)
    assert np.isfinite(sound).all()
    assert 0.5 < np.abs(sound).max() < 1.0


@pytest.mark.parametrize("pitch", [0, 21, 108, 127])
@pytest.mark.parametrize("program", [0, 9, 13, 48, 127])
def test_extreme_pitches_are_finite(program: int, pitch: int) -> None:
    sound = mono(Notes.from_rows([(0, 0.5, pitch)], program=[program]))
    assert np.isfinite(sound).all()


def test_a_note_begins_and_ends_without_a_click() -> None:
    sound = mono(Notes.from_rows([(1, 1, 60)], program=[19]))
    begin, end = round(0.5 * RATE), round(1.0 * RATE)
    steps = np.abs(np.diff(sound))
    steady = steps[begin + RATE // 8 : end].max()
    assert steps[begin - 50 : begin + 50].max() < steady
    assert steps[end - 50 :].max() < 1.5 * steady
    assert abs(sound[-1]) < 1e-4


def test_a_shorter_note_is_the_beginning_of_a_longer_one() -> None:
    long, short = (held_note(STRINGS, 64, 80, seconds, RATE) for seconds in (1.0, 0.4))
    assert len(short) % BLOCK != 0
    np.testing.assert_allclose(short, long[: len(short)], atol=1e-5)


def test_the_same_notes_give_the_same_samples() -> None:
    notes = Notes.from_rows([(0, 1, 60), (1, 1, 38)], drum=[False, True])
    assert np.array_equal(synthesise(notes, sample_rate=RATE), synthesise(notes, sample_rate=RATE))


def test_blockwise_convolution_is_convolution() -> None:
    rng = np.random.default_rng(3)
    sound, echo = rng.standard_normal((2, 200_000)).astype(np.float32), rng.standard_normal((2, 900)).astype(np.float32)
    expected = np.stack([dry + np.convolve(dry, wet)[:200_000] for dry, wet in zip(sound, echo, strict=True)])
    _add_convolved(sound, echo)
    np.testing.assert_allclose(sound, expected, atol=1e-3)


def test_tracks_stand_apart_in_stereo() -> None:
    sound = synthesise(Notes.from_rows([(0, 1, 72), (4, 1, 48)], track=[0, 1]), sample_rate=RATE)
    first, second = sound[: RATE // 2].std(axis=0), sound[2 * RATE : 5 * RATE // 2].std(axis=0)
    assert first[0] > 1.1 * first[1]
    assert second[1] > 1.1 * second[0]


def test_what_lies_beyond_the_limit_is_left_out_with_a_warning() -> None:
    notes = Notes.from_rows([(0, 1, 60), (118, 10, 60), (10_000, 1, 60)])
    with pytest.warns(UserWarning, match="only its first 1 are rendered"):
        sound = mono(notes, bpm=120, limit_minutes=1.0)
    assert len(sound) / RATE == pytest.approx(60 + TAIL_SECONDS, abs=0.001)


def test_impossible_rates_and_tempos_are_refused() -> None:
    note = Notes.from_rows([(0, 1, 60)])
    with pytest.raises(ValueError, match="between 8000 and 96000"):
        synthesise(note, sample_rate=100)
    with pytest.raises(ValueError, match="positive quarter notes a minute"):
        synthesise(note, bpm=0.0)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_wav_file_gives_the_samples_back(tmp_path: Path, channels: int) -> None:
    samples = np.linspace(-1.2, 1.2, 2 * 500).reshape(500, 2)[:, :channels].squeeze()
    write_wav(tmp_path / "x.wav", samples, RATE)
    with wave.open(str(tmp_path / "x.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()) == (channels, 2, RATE, 500)
        back = np.frombuffer(file.readframes(500), "<i2").reshape(samples.shape) / 32767.0
    np.testing.assert_allclose(back, np.clip(samples, -1, 1), atol=1 / 32767)
