"""A row of a batch is found again in its pieces: every token, every note, every bar, moved to its key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musictrain.curriculum import Course, Pacing
from musictrain.data.tokenizers import MidiTokTokenizer, VoiceGrid
from musictrain.datamodule import MusicDataModule
from musictrain.notes import Notes, TimeSignature
from musictrain.replay.row_music import in_words, laid_out, music_of_rows, soundings


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chance = np.random.default_rng(3)
    home = np.array([72, 67, 60, 48])
    pieces = [(home + chance.integers(-1, 2, (length, 4)).cumsum(0).clip(-6, 6)).tolist() for length in (40, 21, 33, 52, 18)]
    path = tmp_path_factory.mktemp("corpus") / "frames.json"
    path.write_text(json.dumps({"train": pieces, "valid": [pieces[0]], "test": [pieces[1]]}))
    return path


WAYS = {
    "packed": {"packing": True, "window": 96},
    "a piece a row": {"packing": False, "window": 64, "align": 16},
    "packed, without a grid": {"packing": True, "window": 50, "tokenizer": MidiTokTokenizer("REMI")},
    "packed, with a curriculum": {"packing": True, "window": 96, "steered": True},
    "a piece a row, with a curriculum": {"packing": False, "window": 64, "align": 16, "steered": True},
    "time shifts": {"packing": False, "window": 40, "tokenizer": MidiTokTokenizer("TSD")},
}


@pytest.fixture(params=WAYS, ids=lambda name: name.replace(" ", "_"))
def data(request: pytest.FixtureRequest, corpus: Path) -> MusicDataModule:
    options = {**WAYS[request.param]}
    steered = options.pop("steered", False)
    made = MusicDataModule(str(corpus), batch_size=3, seed=5, **options)
    if steered:
        halfway = Pacing(until=1000, start=0.5)
        made.follow(Course("steps", difficulty=halfway, length=halfway, orderings={"note_density": 1.0}))
    return made


def some_rows(data: MusicDataModule) -> list[tuple[Any, dict[str, Any]]]:
    plan = data.train_plan()
    batches = [plan.batch(number, dial=data.dial_at(number)) for number in (0, 1, plan.num_batches - 1, plan.num_batches + 2)]
    return [(music, batch) for batch in batches for music in music_of_rows(data, batch)]


def test_the_parts_of_a_row_are_its_tokens_in_the_row_s_key(data: MusicDataModule) -> None:
    several = 0
    for music, batch in some_rows(data):
        shift = data.tokenizer.transposition(music.transpose)
        tokens = batch["tokens"][music.row].numpy()
        filled = int((tokens != data.tokenizer.pad_id).sum())
        assert sum(part.length for part in music.parts) == filled
        for part in music.parts:
            own = data.store.piece(part.piece)[part.start : part.start + part.length]
            assert np.array_equal(shift[own], tokens[part.first : part.first + part.length])
        several += len(music.parts) > 1
    assert several > 0 or not data.packing


def test_every_note_that_starts_in_a_row_is_the_corpus_own_moved(data: MusicDataModule) -> None:
    pieces = {piece.name: piece.notes for piece in data.corpus.pieces}
    heard = 0
    for music, _ in some_rows(data):
        for part in music.parts:
            whole = data.tokenizer.decode(data.store.piece(part.piece))
            known = {(round(float(onset), 4), int(pitch)) for onset, pitch in zip(whole.onset, whole.pitch, strict=True)}
            begin = part.beats[0]
            found = {
                (round(float(onset), 4), int(pitch) - music.transpose)
                for onset, pitch in zip(part.notes.onset, part.notes.pitch, strict=True)
                if onset > begin + 1e-6
            }
            assert found <= known
            heard += len(found)
            assert part.notes.end <= pieces[part.name].end + 1e-6
    assert heard > 50


def test_a_token_sounds_in_the_bar_that_it_is_said_to(data: MusicDataModule) -> None:
    for music, _ in some_rows(data):
        for token in range(0, len(music.tokens), 7):
            at, part = music.bar_at(token), music.part_at(token)
            if at is None or part is None:
                assert music.tokens[token] == data.tokenizer.pad_id
                continue
            bar, beat = at
            assert part.bars[0] <= bar <= part.bars[1]
            in_piece = music.beats[token] - part.at + part.bar_lines[0]
            assert 4.0 * (bar - 1) + beat - 1.0 == pytest.approx(in_piece)  # bars of 4/4


def test_a_token_s_pitch_is_that_of_its_name(data: MusicDataModule) -> None:
    seen = 0
    for music, _ in some_rows(data):
        for token, pitch in zip(music.tokens, music.pitches, strict=True):
            kind, _, value = data.tokenizer.token_name(int(token)).partition("_")
            if value.isdigit() and kind in ("Pitch", "Soprano", "Alto", "Tenor", "Bass"):
                assert pitch == int(value)
                seen += 1
    assert seen > 100


def test_padding_has_no_place_and_a_row_of_it_no_music(corpus: Path) -> None:
    data = MusicDataModule(str(corpus), batch_size=2, packing=False, window=64)
    batch = data.train_plan().batch(0)
    batch["tokens"][1] = data.tokenizer.pad_id
    batch["piece"][1] = -1
    music = music_of_rows(data, batch)[1]
    assert music.parts == ()
    assert len(music.notes) == 0
    assert np.isnan(music.beats).all()
    assert music.where.startswith("nothing but padding")


def test_bars_follow_the_piece_s_own_metre() -> None:
    # Three pieces of 3/4 after a pickup of one beat: bar 2 begins at beat 1.
    notes = Notes.from_rows([(beat, 1, 60) for beat in range(10)], time_signatures=(TimeSignature(0, 1, 4), TimeSignature(1, 3, 4)))
    grid = VoiceGrid()
    voices = np.stack([np.repeat(notes.pitch, 4) + step for step in (12, 7, 4, 0)], axis=1)
    tokens = np.concatenate([grid.begin, grid.encode_frames(voices), grid.end])
    sounding, heard = soundings(grid, tokens, 4 + 16 * 4, tokens[4 + 16 * 4 : 4 + 16 * 7])
    assert sounding.beats[0] == 4.0
    assert sounding.beats[-1] == 6.75
    assert heard.onset.min() == 4.0
    assert heard.end == 7.0


def test_parts_stand_one_after_the_other_in_whole_bars(corpus: Path) -> None:
    data = MusicDataModule(str(corpus), batch_size=3, packing=True, window=96)
    rows = [music for music, _ in some_rows(data) if len(music.parts) > 1]
    assert rows
    for music in rows:
        ends = [part.at + float(part.bar_lines[-1] - part.bar_lines[0]) for part in music.parts]
        assert [part.at for part in music.parts] == [0.0, *ends[:-1]]
        assert laid_out(music.parts).same_notes(music.notes)
        assert all(beat % 1 == 0 for beat in ends)


def test_tokens_are_said_as_a_musician_would() -> None:
    assert in_words(VoiceGrid(), VoiceGrid().encode_frames(np.array([[72, -1, 60, 48]]))[0]) == "Soprano C5"
    assert in_words(VoiceGrid(), VoiceGrid().encode_frames(np.array([[72, -1, 60, 48]]))[1]) == "Alto Rest"
    remi = MidiTokTokenizer("REMI")
    names = {remi.token_name(token): token for token in range(remi.vocab_size)}
    assert in_words(remi, names["Pitch_60"]) == "Pitch C4"
    assert in_words(remi, names["Position_8"]) == "Position 8"
