"""Settings, files and fingerprints: a tokenizer is what its JSON says, in every process."""

import json
import subprocess
import sys

import numpy as np
import pytest

from musictrain.data.tokenizers import MidiTokTokenizer, TokenizerFileError, VoiceGrid, load_tokenizer, save_tokenizer
from musictrain.notes import Notes

MELODY = Notes.from_rows([(0, 1, 60), (1, 0.5, 62), (1.5, 0.5, 64)])


@pytest.fixture(params=[VoiceGrid(lowest=36, highest=81), ("REMI", {"use_programs": False}), ("TSD", {}), ("Structured", {})], ids=str)
def tokenizer(request):
    return request.param if isinstance(request.param, VoiceGrid) else MidiTokTokenizer(*request.param)


def test_a_saved_tokenizer_loads_as_the_same_one(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert (type(loaded), loaded.config(), loaded.fingerprint) == (type(tokenizer), tokenizer.config(), tokenizer.fingerprint)
    assert np.array_equal(loaded.encode(MELODY), tokenizer.encode(MELODY))


def test_config_is_plain_json_and_makes_the_same_tokenizer(tokenizer):
    config = json.loads(json.dumps(tokenizer.config()))
    assert config == tokenizer.config()
    assert type(tokenizer)(**config).fingerprint == tokenizer.fingerprint


def test_the_file_says_what_made_it(tmp_path):
    save_tokenizer(MidiTokTokenizer("TSD"), tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    assert (content["class"], content["config"]["kind"], content["vocab_size"]) == ("MidiTokTokenizer", "TSD", 571)
    assert set(content["versions"]) == {"musictrain", "miditok", "symusic"}


@pytest.mark.parametrize(
    ("kind", "fingerprint"), [("REMI", "431e9305c4333f76"), ("TSD", "db98cd7ea3d6141a"), ("Structured", "1adbcdcce52ec7f1")]
)
def test_the_fingerprints_of_the_pinned_settings_are_pinned(kind, fingerprint):
    assert MidiTokTokenizer(kind).fingerprint == fingerprint


def test_the_fingerprint_is_the_same_in_another_process():
    code = "from musictrain.data.tokenizers import MidiTokTokenizer; print(MidiTokTokenizer('REMI', {'programs': [40, -1, 0]}).fingerprint)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == MidiTokTokenizer("REMI", {"programs": [40, -1, 0]}).fingerprint


def test_every_setting_changes_the_fingerprint():
    changes = [{}, {"pitch_range": [20, 108]}, {"use_rests": True}, {"num_tempos": 22}, {"delete_equal_successive_tempo_changes": False}]
    assert len({MidiTokTokenizer("REMI", change).fingerprint for change in changes}) == len(changes)


def test_another_default_of_miditok_changes_nothing(monkeypatch):
    import miditok

    defaults = list(miditok.TokenizerConfig.__init__.__defaults__)
    changed = [not value if isinstance(value, bool) else value for value in defaults]
    monkeypatch.setattr(miditok.TokenizerConfig.__init__, "__defaults__", tuple(changed))
    assert MidiTokTokenizer("REMI").fingerprint == "431e9305c4333f76"


def test_a_fingerprint_that_does_not_match_is_an_error_naming_both_and_the_versions(tmp_path):
    path = tmp_path / "tokenizer.json"
    save_tokenizer(VoiceGrid(), path)
    path.write_text(path.read_text().replace(VoiceGrid().fingerprint, "0123456789abcdef"))
    with pytest.raises(TokenizerFileError, match=rf"fingerprint 0123456789abcdef.*{VoiceGrid().fingerprint}.*miditok .* then, .* now"):
        load_tokenizer(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a tokenizer's JSON"),
        ("[]", "lacks class, config, fingerprint"),
        ('{"class": "VoiceGrid"}', "lacks config, fingerprint"),
        ('{"class": "VoiceGird", "config": {}, "fingerprint": ""}', "holds a 'VoiceGird'.*Did you mean 'VoiceGrid'?"),
        ('{"class": "VoiceGrid", "config": {"low": 1}, "fingerprint": ""}', "arguments that VoiceGrid does not take.*'low'"),
        ('{"class": "VoiceGrid", "config": {"lowest": -1}, "fingerprint": ""}', "arguments that VoiceGrid does not take.*-1 to 108"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, content, message):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerFileError, match=message):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_tokenizer(tmp_path / "nowhere.json")


def test_a_class_that_could_not_be_loaded_is_not_saved(tmp_path):
    class MyGrid(VoiceGrid):
        pass

    with pytest.raises(TokenizerFileError, match=r"Only VoiceGrid and MidiTokTokenizer can be saved, not .*MyGrid"):
        save_tokenizer(MyGrid(), tmp_path / "tokenizer.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("REMY", r"offers REMI, TSD, Structured, not 'REMY'\. Did you mean 'REMI'\?"),
        ("CPWord", "CPWord is MidiTok's but not offered: it has several vocabularies"),
        ("MIDILike", "MIDILike is MidiTok's but not offered"),
    ],
)
def test_kinds_that_are_not_offered_are_refused(kind, message):
    with pytest.raises(ValueError, match=message):
        MidiTokTokenizer(kind)


@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        ("REMI", {"use_rest": True}, r"REMI has no setting 'use_rest'\. Did you mean 'use_rests'\?"),
        ("REMI", {"use_chords": True}, "REMI keeps use_chords=False here and got True"),
        ("Structured", {"use_tempos": True}, "Structured has no tokens for use_tempos"),
        ("REMI", {"pitch_range": 60}, r"pitch_range got 60; it is given like \[21, 108\]"),
        ("REMI", {"use_rests": 1}, "use_rests got 1; it is given like False"),
        ("REMI", {"pitch_range": [100, 50], "drums_pitch_range": [60, 70]}, r"\[60, 70\] is not within pitch_range=\[100, 50\]"),
        ("REMI", {"pitch_range": [60, 72]}, r"drums_pitch_range=\[27, 88\] is not within pitch_range=\[60, 72\]"),
        ("REMI", {"beat_res": {"0_4": 12, "4_8": 8}}, "8 steps a beat do not divide the finest 12"),
        ("REMI", {"beat_res": {"0-4": 12}}, r"beat_res=\{'0-4': 12\}: beats are given like '0_4'"),
        ("REMI", {"time_signature_range": {"8": [6]}}, "lacks 4/4"),
        ("TSD", {"num_velocities": 500}, "MidiTok refuses these settings of TSD: ValueError.*num_velocities"),
        ("TSD", {"programs": [0, 200]}, r"programs got \[0, 200\]"),
    ],
)
def test_settings_that_cannot_work_are_refused(kind, params, message):
    with pytest.raises(ValueError, match=message):
        MidiTokTokenizer(kind, params)


def test_settings_may_be_written_as_miditok_writes_them():
    assert MidiTokTokenizer("REMI", {"beat_res": {(0, 4): 12, (4, 12): 4, (12, 32): 1}}).fingerprint == MidiTokTokenizer().fingerprint
    assert MidiTokTokenizer("REMI", {"pitch_range": (21, 108), "use_chords": False}).fingerprint == MidiTokTokenizer().fingerprint


def test_a_name_shows_what_differs_from_the_pinned_settings():
    assert repr(MidiTokTokenizer("TSD")) == "MidiTokTokenizer(kind='TSD')"
    assert repr(MidiTokTokenizer("TSD", {"use_rests": True})) == "MidiTokTokenizer(kind='TSD', params={'use_rests': True})"


@pytest.mark.parametrize("init", ["VoiceGrid: {lowest: 30}", "MidiTokTokenizer: {kind: TSD, params: {use_rests: true}}"])
def test_yaml_can_name_a_tokenizer(init):
    from jsonargparse import ArgumentParser

    name, arguments = init.split(": ", 1)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--tokenizer", type=VoiceGrid | MidiTokTokenizer)
    text = f"{{class_path: musictrain.data.{name}, init_args: {arguments}}}"
    built = parser.instantiate_classes(parser.parse_args([f"--tokenizer={text}"])).tokenizer
    assert type(built).__name__ == name
    assert "30" in repr(built) or "use_rests" in repr(built)
