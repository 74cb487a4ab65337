"""A folder, a file of frames or a name becomes a corpus: read once, named, grouped, split; errors are short and say what to do."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from musictrain.data import corpora
from musictrain.data.corpora import Corpus, CorpusError, Piece, load_corpus
from musictrain.data.scores import write_midi
from musictrain.notes import Notes


def melody(seed: int) -> Notes:
    pitch = np.random.default_rng(seed).integers(60, 78, 40)
    return Notes(np.arange(40), np.ones(40), pitch)


def load(name: str | Path, tmp_path: Path, **options: object) -> Corpus:
    return load_corpus(name, cache_dir=tmp_path / "cache", workers=0, progress=False, **options)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty melodies in two sub-folders, number 3 also transposed, and a broken file."""
    scores = tmp_path / "my scores"
    for number in range(20):
        write_midi(melody(number), scores / ("high" if number % 2 else "low") / f"{number:02d}.mid")
    write_midi(melody(3).transposed(-4), scores / "low" / "three again.midi")
    (scores / "broken.mid").write_bytes(b"MThd")
    return scores


def test_a_folder_is_read_at_any_depth_and_a_broken_file_costs_one_line(folder: Path, tmp_path: Path) -> None:
    corpus = load(folder, tmp_path)
    assert corpus.name == "my scores"
    assert [piece.name for piece in corpus.pieces[:3]] == ["high/01", "high/03", "high/05"]
    assert corpus.pieces[0].source == "high/01.mid"
    assert corpus.pieces[0].notes.same_notes(melody(1))
    assert len(corpus.pieces) == 21
    assert corpus.rejected == [("broken.mid", "the file ends too early: it is cut off or damaged")]


def test_every_piece_is_in_one_split_and_twins_are_in_the_same(folder: Path, tmp_path: Path) -> None:
    corpus = load(folder, tmp_path)
    assert sorted(piece.name for split in ("train", "valid", "test") for piece in corpus.split(split)) == sorted(
        p.name for p in corpus.pieces
    )
    assert [len(corpus.split(split)) for split in ("train", "valid", "test")] == [17, 2, 2]
    assert [piece.name for piece in corpus.groups()["high/03"]] == ["high/03", "low/three again"]
    assert corpus.twins == [("high/03", "low/three again")]
    assert corpus.warnings == []
    with pytest.raises(ValueError, match=r"No split is called 'vaild'.*Did you mean 'valid'"):
        corpus.split("vaild")


def test_the_second_time_comes_from_the_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(folder, tmp_path)
    monkeypatch.setattr(corpora, "read_in_order", lambda *_, **__: pytest.fail("a cached corpus was read again"))
    again = load(folder, tmp_path)
    assert again.fingerprint == first.fingerprint
    assert again.rejected == first.rejected
    assert all(one.notes.same_notes(other.notes) for one, other in zip(first.pieces, again.pieces, strict=True))
    # Another seed makes other splits of the same notes, and reads no file for it.
    other = load(folder, tmp_path, seed=1)
    assert [piece.split for piece in other.pieces] != [piece.split for piece in first.pieces]
    assert other.fingerprint != first.fingerprint


def test_a_changed_a_new_and_a_lost_file_are_seen(folder: Path, tmp_path: Path) -> None:
    seen = [load(folder, tmp_path).fingerprint]
    write_midi(melody(50), folder / "low" / "00.mid")
    os.utime(folder / "low" / "00.mid", ns=(1, 1))
    seen.append(load(folder, tmp_path).fingerprint)
    write_midi(melody(51), folder / "new.mid")
    seen.append(load(folder, tmp_path).fingerprint)
    (folder / "new.mid").unlink()
    seen.append(load(folder, tmp_path).fingerprint)
    assert len({*seen}) == 3
    assert seen[3] == seen[1]


def test_the_fingerprint_does_not_depend_on_where_the_folder_or_the_cache_is(folder: Path, tmp_path: Path) -> None:
    first = load(folder, tmp_path).fingerprint
    moved = folder.rename(tmp_path / "elsewhere")
    assert load_corpus(moved, cache_dir=tmp_path / "other cache", workers=1, progress=False).fingerprint == first


def test_pieces_travel_to_other_processes_without_their_notes(folder: Path, tmp_path: Path) -> None:
    corpus = load(folder, tmp_path)
    copy = pickle.loads(pickle.dumps(corpus))
    assert len(pickle.dumps(corpus)) < 20_000
    assert copy.pieces[5].notes.same_notes(corpus.pieces[5].notes)
    assert (copy.pieces[5].name, copy.pieces[5].split, copy.fingerprint) == (
        corpus.pieces[5].name,
        corpus.pieces[5].split,
        corpus.fingerprint,
    )


def test_a_piece_may_hold_its_notes_itself() -> None:
    piece = Piece("a", "a.mid", melody(0))
    assert piece.notes.same_notes(melody(0))
    assert (piece.group, piece.split) == ("a", "train")


def split_folders(tmp_path: Path, **pieces: list[Notes]) -> Path:
    for split, all_notes in pieces.items():
        for number, notes in enumerate(all_notes):
            write_midi(notes, tmp_path / "scores" / split / "deep" / f"{number}.mid")
    return tmp_path / "scores"


def test_the_users_own_split_folders_are_kept_and_a_divided_group_is_reported(tmp_path: Path) -> None:
    scores = split_folders(tmp_path, Train=[melody(0), melody(1)], validation=[melody(2)], test=[melody(1).transposed(2)])
    write_midi(melody(9), scores / "stray.mid")
    corpus = load(scores, tmp_path)
    assert {piece.name: piece.split for piece in corpus.pieces} == {
        **{"Train/deep/0": "train", "Train/deep/1": "train"},
        **{"validation/deep/0": "valid", "test/deep/0": "test"},
    }
    assert corpus.rejected == [("stray.mid", "stands outside the sub-folders train, valid and test")]
    assert len(corpus.warnings) == 1
    assert "1 of 3 groups stand in more than one of the given splits, the first is that of 'Train/deep/1'" in corpus.warnings[0]


def test_without_a_valid_folder_some_groups_of_train_become_it(tmp_path: Path) -> None:
    corpus = load(split_folders(tmp_path, train=[melody(n) for n in range(9)], test=[melody(20)]), tmp_path)
    assert [len(corpus.split(split)) for split in ("train", "valid", "test")] == [8, 1, 1]
    assert corpus.warnings == ["No valid split is given: a share of train's groups was taken for it."]


def test_a_corpus_of_one_tune_says_that_there_is_nothing_to_validate_on(tmp_path: Path) -> None:
    corpus = load(split_folders(tmp_path, songs=[melody(0), melody(0)]), tmp_path)
    assert [piece.split for piece in corpus.pieces] == ["train", "train"]
    assert corpus.warnings == ["The split valid is empty: there is nothing to validate on. The corpus has 1 group(s) of pieces."]


def test_hidden_files_are_skipped_links_that_loop_end_and_an_unreadable_link_is_a_rejection(tmp_path: Path) -> None:
    scores = tmp_path / "scores"
    for name in (".hidden.mid", "._ghost.mid", ".git/x.mid", "a.mid", "sub/b.MID", "folder.mid/c.mid"):
        write_midi(melody(len(name)), scores / name)
    (scores / "sub" / "loop").symlink_to(scores)
    (scores / "sub" / "twice").symlink_to(scores / "folder.mid")
    (scores / "gone.mid").symlink_to(tmp_path / "nowhere.mid")
    corpus = load(scores, tmp_path)
    assert [piece.source for piece in corpus.pieces] == ["a.mid", "folder.mid/c.mid", "sub/b.MID"]
    assert corpus.rejected == [("gone.mid", "no such file")]


def test_names_are_never_given_twice(tmp_path: Path) -> None:
    scores = tmp_path / "scores"
    write_midi(melody(0), scores / "a.mid")
    write_midi(melody(1), scores / "a.midi")
    tune = "X:1\nT:Reel\nL:1/4\nK:C\nCDEF|\n\n"
    (scores / "b.abc").write_text(tune + tune.replace("CD", "GD") + tune.replace("T:Reel", "T:Reel (2)") + tune)
    assert [piece.name for piece in load(scores, tmp_path).pieces] == ["a.mid", "a.midi", "Reel", "Reel (2)", "Reel (2) (2)", "Reel (3)"]


def test_a_file_of_frames_is_a_corpus_with_its_own_splits(tmp_path: Path) -> None:
    path = tmp_path / "frames.json"
    silence = [[-1] * 4]
    path.write_text(json.dumps({"train": [[[72, 67, 64, 48]] * 4, silence], "valid": [[[71, 67, 62, 55]] * 2]}))
    corpus = load(path, tmp_path)
    assert [(piece.name, piece.split) for piece in corpus.pieces] == [("train-000", "train"), ("valid-000", "valid")]
    assert corpus.pieces[0].notes.duration.tolist() == [1.0] * 4
    assert corpus.rejected == [("train-001", "no notes in it")]


def test_a_misspelled_name_gets_a_hint(tmp_path: Path) -> None:
    with pytest.raises(
        CorpusError, match=r"No corpus and no folder is called 'choralse'.*Corpora: chorales, ryans.*Did you mean 'chorales'"
    ):
        load("choralse", tmp_path)


def test_a_folder_without_scores_a_file_and_frames_of_another_format_are_short_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no score")
    write_midi(melody(0), tmp_path / "one.mid")
    (tmp_path / "bad.json").write_text("{")
    expected = {
        "empty": r"holds no score file at any depth. Expected files that end in .mid",
        "one.mid": r"is a file, expected a corpus name \(chorales, .*a folder of scores or a .json",
        "bad.json": r"cannot be read as a corpus of frames: not JSON",
    }
    for name, message in expected.items():
        with pytest.raises(CorpusError, match=message) as caught:
            load(tmp_path / name, tmp_path)
        assert len(str(caught.value)) < 400


def test_a_folder_of_broken_files_names_a_few_of_them(tmp_path: Path) -> None:
    scores = tmp_path / "scores"
    scores.mkdir()
    for number in range(30):
        (scores / f"{number:02d}.mid").write_bytes(b"broken")
    with pytest.raises(CorpusError, match=r"None of the 30 scores of .* can be used:\n  00.mid: not a MIDI file") as caught:
        load(scores, tmp_path)
    assert str(caught.value).count("\n") == 7
    assert "and 25 more" in str(caught.value)


def test_shares_are_refused_before_anything_is_read(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected three shares"):
        load(folder, tmp_path, splits=(0.9, 0.2, 0.1))
    assert not (tmp_path / "cache").exists()


def test_a_script_without_a_main_guard_may_load_a_corpus(folder: Path, tmp_path: Path, repository: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"from musictrain import load_corpus\nprint(len(load_corpus({str(folder)!r}, workers=2).pieces))\n")
    environment = {**os.environ, "PYTHONPATH": str(repository), "MUSICTRAIN_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert (done.stdout, done.stderr) == ("21\n", "Reading my scores: 22 of 22\n")


def test_progress_is_plain_lines_where_there_is_no_terminal(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_corpus(folder, cache_dir=tmp_path / "cache", workers=0)
    load_corpus(folder, cache_dir=tmp_path / "cache", workers=0)
    assert capfd.readouterr() == ("", "Reading my scores: 22 of 22\n")
