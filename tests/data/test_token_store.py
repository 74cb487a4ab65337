"""A token store gives back the tokens it was made of, is made once, and never passes half of itself for the whole."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musictrain.data.token_shards import encode_shard, read_shard, shard_path, shard_ranges, write_shard
from musictrain.data.token_store import StoreError, TokenStore
from musictrain.data.token_store_building import open_or_build, store_key
from musictrain.data.token_workers import make_shards
from musictrain.data.tokenizers import VoiceGrid
from musictrain.notes import Notes


@dataclass(frozen=True)
class TinyPiece:
    name: str
    source: str
    notes: Notes
    group: str = ""
    split: str = "train"


@dataclass(frozen=True)
class TinyCorpus:
    pieces: list[TinyPiece]
    name: str = "tiny"
    rejected: list[tuple[str, str]] = field(default_factory=list)
    fingerprint: str = "0123456789abcdef"


def four_voices(beats: int, lowest: int = 48) -> Notes:
    """Quarter notes in four voices, each voice climbing from its own pitch."""
    rows = [(beat, 1.0, lowest + 7 * voice + beat % 5) for beat in range(beats) for voice in range(4)]
    return Notes.from_rows(rows, track=[3 - index % 4 for index in range(len(rows))])


def corpus_of(lengths: list[int], splits: list[str] | None = None) -> TinyCorpus:
    splits = splits or ["train"] * len(lengths)
    return TinyCorpus(
        [TinyPiece(f"piece {i}", f"{i}.mid", four_voices(n), split=s) for i, (n, s) in enumerate(zip(lengths, splits, strict=True))]
    )


@pytest.fixture
def corpus() -> TinyCorpus:
    return corpus_of([4, 9, 2, 7], ["train", "valid", "train", "test"])


TWO = corpus_of([3, 5]).pieces


def build(corpus: Any, folder: Path, **options: Any) -> TokenStore:
    return open_or_build(corpus, options.pop("tokenizer", VoiceGrid()), folder, progress=False, **options)


def test_every_piece_comes_back_with_its_begin_and_end(corpus: TinyCorpus, tmp_path: Path) -> None:
    store, tokenizer = build(corpus, tmp_path), VoiceGrid()
    assert len(store) == len(store.names) == 4
    for number, piece in enumerate(corpus.pieces):
        expected = [*tokenizer.begin, *tokenizer.encode(piece.notes), *tokenizer.end]
        assert store.piece(number).tolist() == expected
        assert tokenizer.decode(store.piece(number)).same_notes(tokenizer.decode(tokenizer.encode(piece.notes)))


def test_splits_names_and_lengths_are_those_of_the_corpus(corpus: TinyCorpus, tmp_path: Path) -> None:
    store = build(corpus, tmp_path)
    assert {split: store.pieces(split).tolist() for split in ("train", "valid", "test")} == {"train": [0, 2], "valid": [1], "test": [3]}
    assert store.names == tuple(piece.name for piece in corpus.pieces)
    assert store.sources[3] == "3.mid"
    assert store.num_beats.tolist() == [4.0, 9.0, 2.0, 7.0]
    assert store.length.tolist() == [16 * beats + 8 for beats in (4, 9, 2, 7)]
    assert store.num_tokens("train") == 16 * 6 + 16
    assert store.tokens.dtype == np.dtype("<u2")


def test_a_split_with_a_typo_is_named(corpus: TinyCorpus, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train, valid, test, not 'validation'"):
        build(corpus, tmp_path).pieces("validation")


def test_notes_are_counted_as_the_tokenizer_holds_them(tmp_path: Path) -> None:
    repeated = Notes.from_rows([(beat, 1.0, 60 - 5 * voice) for beat in range(3) for voice in range(4)], track=[0, 1, 2, 3] * 3)
    store = build(TinyCorpus([TinyPiece("repeated", "r.mid", repeated)]), tmp_path)
    # Twelve notes were written, but the grid cannot say that one is struck again: each voice holds one long note.
    assert len(repeated) == 12
    assert store.num_notes.tolist() == [4]


def test_a_piece_the_tokenizer_cannot_hold_costs_a_line(tmp_path: Path) -> None:
    corpus = corpus_of([3, 3])
    corpus.pieces.insert(1, TinyPiece("too high", "high.mid", four_voices(3, lowest=100)))
    store = build(corpus, tmp_path)
    assert store.names == ("piece 0", "piece 1")
    [(source, reason)] = store.rejected
    assert source == "high.mid"
    assert "VoiceGrid holds pitches 21 to 108" in reason


def test_whatever_a_tokenizer_raises_costs_one_piece() -> None:
    class Broken(VoiceGrid):
        def encode(self, notes: Notes) -> Any:
            return {}["no such key"] if len(notes) > 12 else super().encode(notes)

    shard = encode_shard(list(enumerate(TWO)), Broken())
    assert shard.piece.tolist() == [0]
    assert shard.rejected == ((1, "KeyError: 'no such key'"),)


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        ([3, 4, 5], "no multiple of its 4 tokens per step"),
        ([3, 4, 5, 9999], "its vocabulary is 0 to 358"),
        ([], "keeps none of its 4 notes"),
    ],
)
def test_a_tokenizer_that_breaks_its_contract_is_found_out(encoded: list[int], reason: str) -> None:
    class Broken(VoiceGrid):
        def encode(self, notes: Notes) -> Any:
            return np.array(encoded, np.int64)

    assert reason in encode_shard([(0, TinyPiece("one beat", "", four_voices(1)))], Broken()).rejected[0][1]


def test_a_corpus_the_tokenizer_can_hold_nothing_of_is_an_error_with_reasons(tmp_path: Path) -> None:
    corpus = TinyCorpus([TinyPiece("too high", "high.mid", four_voices(3, lowest=100))])
    with pytest.raises(ValueError, match=r"none of the 1 pieces of tiny.*\n  high.mid: VoiceGrid holds pitches"):
        build(corpus, tmp_path)
    assert not list(tmp_path.glob("*.new"))


def test_a_store_is_made_once(corpus: TinyCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(corpus, tmp_path)
    monkeypatch.setattr(VoiceGrid, "encode", lambda self, notes: pytest.fail("encoded again"))
    assert build(corpus, tmp_path).fingerprint == first.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == [first.folder.name]


def test_the_key_follows_corpus_and_tokenizer(corpus: TinyCorpus) -> None:
    other_corpus = TinyCorpus(corpus.pieces, fingerprint="another")
    keys = {store_key(corpus, VoiceGrid()), store_key(other_corpus, VoiceGrid()), store_key(corpus, VoiceGrid(lowest=30))}
    assert len(keys) == 3
    assert store_key(corpus, VoiceGrid()) in keys


def test_equal_content_has_equal_fingerprints_wherever_it_lies(corpus: TinyCorpus, tmp_path: Path) -> None:
    moved = TinyCorpus([TinyPiece(p.name, f"elsewhere/{p.source}", p.notes, split=p.split) for p in corpus.pieces])
    changed = corpus_of([4, 9, 2, 8], ["train", "valid", "train", "test"])
    stores = [build(c, tmp_path / str(number)) for number, c in enumerate((corpus, moved, changed))]
    assert stores[0].fingerprint == stores[1].fingerprint != stores[2].fingerprint


def truncate_tokens(folder: Path) -> None:
    os.truncate(folder / "tokens.bin", 10)


def flip_a_byte(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    damage.__name__ = f"flip_a_byte_of_{name}"
    return damage


def lose(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()

    damage.__name__ = f"lose_{name}"
    return damage


def empty_meta(folder: Path) -> None:
    (folder / "meta.json").write_text("", encoding="utf-8")


DAMAGES = [
    truncate_tokens,
    empty_meta,
    *(flip_a_byte(n) for n in ("pieces.npz", "names.json", "meta.json")),
    lose("tokens.bin"),
    lose("meta.json"),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_store_is_refused_and_built_again(corpus: TinyCorpus, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    whole = build(corpus, tmp_path)
    damage(whole.folder)
    with pytest.raises(StoreError, match="is no whole token store"):
        TokenStore.open(whole.folder)
    again = build(corpus, tmp_path)
    assert again.fingerprint == whole.fingerprint
    again.verify()
    assert [path.name for path in tmp_path.iterdir()] == [whole.folder.name]


def test_verify_reads_the_tokens_too(corpus: TinyCorpus, tmp_path: Path) -> None:
    store = build(corpus, tmp_path)
    store.verify()
    flip_a_byte("tokens.bin")(store.folder)
    with pytest.raises(StoreError, match=r"tokens\.bin has changed"):
        TokenStore.open(store.folder).verify()


def test_tokens_that_have_changed_are_found_by_who_asks_for_it_and_made_again(corpus: TinyCorpus, tmp_path: Path, caplog: Any) -> None:
    store = build(corpus, tmp_path)
    flip_a_byte("tokens.bin")(store.folder)
    with pytest.raises(StoreError, match=r"tokens\.bin has changed"):
        build(corpus, tmp_path).verify()
    build(corpus, tmp_path, verify=True).verify()
    assert "tokens.bin has changed since it was written. It is built again." in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [store.folder.name]


def test_a_large_store_is_read_once_for_as_long_as_nobody_writes_to_it(
    corpus: TinyCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, read = TokenStore.verify, list[Path]()

    def reads(times: int) -> int:
        """How many of so many starts read the tokens."""
        read.clear()
        for _ in range(times):
            assert build(corpus, tmp_path, verify=True).tokens.tolist() == tokens
        return len(read)

    store = build(corpus, tmp_path)
    tokens = store.tokens.tolist()
    monkeypatch.setattr(TokenStore, "verify", lambda store: (read.append(store.folder), whole(store)))
    os.utime(store.folder / "tokens.bin", (1e9, 1e9))
    assert reads(2) == 2  # a small one at every start
    monkeypatch.setattr("musictrain.data.token_store_verified.SMALL_BYTES", 1)
    assert reads(3) == 1
    flip_a_byte("tokens.bin")(store.folder)
    assert reads(1) >= 1
    # What was made in its place is too new to be relied upon.
    assert reads(2) == 2


def test_a_store_travels_as_the_name_of_its_folder(corpus: TinyCorpus, tmp_path: Path) -> None:
    store = build(corpus, tmp_path)
    sent = pickle.dumps(store)
    assert len(sent) < 300
    assert pickle.loads(sent).piece(1).tolist() == store.piece(1).tolist()


def test_shards_hold_neighbours_and_every_piece_once() -> None:
    ranges = shard_ranges(25, pieces_per_shard=4)
    assert [piece for numbers in ranges for piece in numbers] == list(range(25))
    assert [len(numbers) for numbers in ranges] == [4, 4, 4, 4, 4, 4, 1]
    assert shard_ranges(0) == []


def test_what_an_interrupted_build_finished_is_not_done_again(corpus: TinyCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, encoded = VoiceGrid.encode, []

    def interrupted(self: VoiceGrid, notes: Notes) -> Any:
        encoded.append(len(notes))
        if len(encoded) == 3:
            raise KeyboardInterrupt
        return encode(self, notes)

    monkeypatch.setattr(VoiceGrid, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(corpus, tmp_path, workers=1, pieces_per_shard=1)
    store = build(corpus, tmp_path, workers=1, pieces_per_shard=1)
    assert encoded == [16, 36, 8, 8, 28]
    assert len(store) == 4


def test_a_damaged_shard_is_made_again(tmp_path: Path) -> None:
    path = shard_path(tmp_path, range(2))
    write_shard(encode_shard(list(enumerate(TWO)), VoiceGrid()), path)
    whole = read_shard(path)
    assert whole is not None
    for size in range(0, path.stat().st_size, 50):
        damaged = tmp_path / "damaged.npz"
        shutil.copy(path, damaged)
        os.truncate(damaged, size)
        assert read_shard(damaged) is None
    os.truncate(path, 200)
    assert list(make_shards(TWO, [range(2)], VoiceGrid(), tmp_path)) == [range(2)]
    again = read_shard(path)
    assert again is not None
    assert again.tokens.tolist() == whole.tokens.tolist()


def test_several_processes_make_the_store_one_makes(tmp_path: Path) -> None:
    corpus = corpus_of([3, 5, 2, 6, 4, 3], ["train", "valid", "test"] * 2)
    corpus.pieces.insert(2, TinyPiece("too high", "high.mid", four_voices(3, lowest=100)))
    one = build(corpus, tmp_path / "one", workers=1)
    several = build(corpus, tmp_path / "several", workers=2, pieces_per_shard=1)
    assert several.fingerprint == one.fingerprint
    assert several.rejected == one.rejected


class OnlyHere(VoiceGrid):
    """A tokenizer that cannot be unpickled, as one of a notebook could not."""

    def __reduce__(self) -> Any:
        return _only_in_process, (os.getpid(),)


def _only_in_process(pid: int) -> Any:
    raise RuntimeError("this tokenizer cannot travel")


def test_a_tokenizer_that_cannot_travel_is_used_here(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = corpus_of([3, 5, 2])
    store = build(corpus, tmp_path, tokenizer=OnlyHere(), workers=2, pieces_per_shard=1)
    assert len(store) == 3
    assert "goes on in one process" in caplog.text
    assert "this tokenizer cannot travel" in caplog.text


def test_two_builders_at_once_both_get_the_whole_store(tmp_path: Path) -> None:
    corpus = corpus_of([3, 5, 2, 6] * 5)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    builders = [
        context.Process(target=lambda: results.put(build(corpus, tmp_path, workers=1, pieces_per_shard=1).fingerprint)) for _ in range(4)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)
    assert [builder.exitcode for builder in builders] == [0] * 4
    assert len({results.get() for _ in builders}) == 1
    [folder] = tmp_path.iterdir()
    TokenStore.open(folder).verify()


def test_a_script_without_a_main_guard_builds_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from musictrain.data.corpora import Piece\n"
        "from musictrain.data.token_workers import make_shards\n"
        "from musictrain.data.tokenizers import VoiceGrid\n"
        "from musictrain.notes import Notes\n"
        "print('ran')\n"
        "notes = Notes.from_rows([(0, 1, 60 - v) for v in range(4)], track=range(4))\n"
        "pieces = [Piece(str(n), '', notes) for n in range(4)]\n"
        "print(len(list(make_shards(pieces, [range(n, n + 1) for n in range(4)], VoiceGrid(), Path(sys.argv[1]), 2))))\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ran = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=True, env=environment)
    assert ran.stdout.split() == ["ran", "4"]
    assert ran.stderr == ""


def test_meta_names_corpus_and_tokenizer(corpus: TinyCorpus, tmp_path: Path) -> None:
    meta = json.loads((build(corpus, tmp_path).folder / "meta.json").read_text(encoding="utf-8"))
    assert meta["corpus"] == {"name": "tiny", "fingerprint": corpus.fingerprint}
    assert meta["tokenizer"]["fingerprint"] == VoiceGrid().fingerprint
