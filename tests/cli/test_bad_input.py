"""Each mistake is a short error: what came, what was expected, what to do. Nothing is left behind."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from musictrain.runs import list_runs
from tests.cli.tiny import tiny_config, type_command, write_config, write_corpus


def fit_error(capsys: Any, tmp_path: Path, config: dict[str, Any], *words: Any) -> str:
    """What a fit that cannot work complains; its status is 2 and no run stays behind."""
    path = write_config(tmp_path / "config.yaml", config)
    status, _, err = type_command(capsys, "fit", "--config", path, "--runs", tmp_path / "runs", *words)
    assert status == 2
    assert list_runs(tmp_path / "runs") == []
    err = err[err.index("error: ") :]
    lines = err.splitlines()
    assert len(lines) <= 6, err
    assert all(len(line) < 600 for line in lines), err
    assert "Traceback" not in err
    return err


def test_an_empty_folder(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "music").mkdir()
    assert "music" in fit_error(capsys, tmp_path, tiny_config(tmp_path / "music"))


def test_a_folder_of_broken_files(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "music").mkdir()
    for number in range(3):
        (tmp_path / "music" / f"{number}.mid").write_bytes(b"no midi at all")
    message = fit_error(capsys, tmp_path, tiny_config(tmp_path / "music"))
    assert ".mid" in message


def test_a_corpus_with_a_typo(tmp_path: Path, capsys: Any) -> None:
    message = fit_error(capsys, tmp_path, tiny_config("choralse"))
    assert "'choralse'" in message
    assert "Did you mean 'chorales'?" in message


def test_a_window_longer_than_every_piece(tmp_path: Path, capsys: Any) -> None:
    config = tiny_config(write_corpus(tmp_path / "frames.json", pieces=2, frames=8))
    config["data"]["init_args"]["window"] = 4096
    config["model"]["init_args"]["network"]["init_args"]["max_context"] = 4096
    assert "4096" in fit_error(capsys, tmp_path, config)


def test_a_vocabulary_that_is_not_the_tokenizers(corpus: Path, tmp_path: Path, capsys: Any) -> None:
    config = tiny_config(corpus)
    config["model"]["init_args"]["network"]["init_args"]["vocab_size"] = 300
    message = fit_error(capsys, tmp_path, config)
    assert "The network has 300 tokens, the tokenizer VoiceGrid has 359." in message
    assert "Leave out model.init_args.network.init_args.vocab_size" in message


def test_a_foreign_network_of_the_wrong_width(corpus: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "narrow.py").write_text(
        "import torch\nclass Narrow(torch.nn.Embedding):\n    def __init__(self, width: int = 5):\n        super().__init__(width, width)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = tiny_config(corpus)
    config["model"]["init_args"]["network"] = {"class_path": "narrow.Narrow"}
    path = write_config(tmp_path / "config.yaml", config)
    status, _, err = type_command(capsys, "fit", "--config", path, "--runs", tmp_path / "runs")
    assert status in (1, 2)
    assert "359" in err


@pytest.mark.parametrize(
    ("section", "key", "nearest"),
    [
        (("trainer",), "max_step", "trainer.max_steps"),
        ((), "trainr", "trainer"),
        (("data", "init_args"), "corps", "corpus"),
        (("model", "init_args"), "netwrk", "network"),
        (("model", "init_args", "network", "init_args"), "num_layer", "num_layers"),
    ],
)
def test_a_key_with_a_typo_in_the_file(section: tuple[str, ...], key: str, nearest: str, corpus: Path, tmp_path: Path, capsys: Any) -> None:
    config = tiny_config(corpus)
    node = config
    for part in section:
        node = node[part]
    node[key] = node.pop(nearest.split(".")[-1], 1)
    message = fit_error(capsys, tmp_path, config)
    assert f"Did you mean '{nearest}" in message
    assert key in message


@pytest.mark.parametrize(
    ("option", "nearest"),
    [
        ("--trainer.max_epoch", "'trainer.max_epochs'"),
        ("--trainer.max_ste", "'trainer.max_steps'"),
        ("--data.init_args.windw", "'window'"),
        ("--data.windw", "'window'"),
        ("--see_everything", "'seed_everything'"),
    ],
)
def test_an_option_with_a_typo_or_cut_short(option: str, nearest: str, corpus: Path, tmp_path: Path, capsys: Any) -> None:
    assert f"Did you mean {nearest}" in fit_error(capsys, tmp_path, tiny_config(corpus), option, 3)


def test_a_value_of_the_wrong_type(corpus: Path, tmp_path: Path, capsys: Any) -> None:
    message = fit_error(capsys, tmp_path, tiny_config(corpus), "--trainer.max_steps", "many")
    assert "trainer.max_steps is 'many', but should be int." in message


def test_a_class_with_a_typo(corpus: Path, tmp_path: Path, capsys: Any) -> None:
    config = tiny_config(corpus)
    config["model"]["init_args"]["network"]["class_path"] = "musictrain.Decodr"
    message = fit_error(capsys, tmp_path, config)
    assert "musictrain.Decodr" in message


def test_yaml_that_is_none_or_would_run_code(corpus: Path, tmp_path: Path, capsys: Any) -> None:
    for number, text in enumerate(["trainer: [", "trainer: !!python/object/apply:os.system ['touch stolen']"]):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        status, _, err = type_command(capsys, "fit", "--config", path, "--runs", tmp_path / "runs")
        assert status == 2
        assert len(err.splitlines()) <= 6
    assert not Path("stolen").exists()


def test_an_unknown_recipe(capsys: Any) -> None:
    status, _, err = type_command(capsys, "fit", "--config", "choral")
    assert status == 2
    assert "No configuration file and no recipe 'choral'. Did you mean 'chorales'? Recipes: " in err


def test_fit_without_anything(capsys: Any) -> None:
    status, _, err = type_command(capsys, "fit")
    assert (status, err.startswith("error: fit needs a configuration: musictrain fit --config NAME. Recipes: ")) == (2, True)


@pytest.mark.parametrize("command", ["sample", "resume"])
def test_an_unknown_or_ambiguous_run(command: str, runs_dir: Path, capsys: Any) -> None:
    (run,) = list_runs(runs_dir)
    shutil.copytree(run.path, runs_dir / f"{run.name}-twin")
    status, _, err = type_command(capsys, command, run.name[:12], "--runs", runs_dir)
    assert (status, "fits 2 runs" in err) == (2, True)
    status, _, err = type_command(capsys, command, "nowhere", "--runs", runs_dir)
    assert (status, "No run 'nowhere'" in err) == (2, True)


def test_nothing_to_go_on_with(runs_dir: Path, capsys: Any) -> None:
    status, _, err = type_command(capsys, "resume", "latest", "--runs", runs_dir)
    assert (status, "has done all its 6 steps. To go on, give it a new end: --trainer.max_steps 12" in err) == (2, True)
    (run,) = list_runs(runs_dir)
    shutil.rmtree(run.checkpoints)
    status, _, err = type_command(capsys, "resume", "latest", "--runs", runs_dir, "--trainer.max_steps", 9)
    assert (status, "has no checkpoint: it has not saved any yet." in err) == (2, True)


def test_going_on_with_another_model_or_corpus(runs_dir: Path, tmp_path: Path, capsys: Any) -> None:
    width = "model.init_args.network.init_args.d_model"
    status, _, err = type_command(capsys, "resume", "latest", "--runs", runs_dir, "--trainer.max_steps", 9, f"--{width}", 16)
    assert (status, f"began with {width} = 8, and this asks for 16" in err) == (2, True)
    other = write_corpus(tmp_path / "other.json", pieces=3)
    words = ("--trainer.max_steps", 9, "--data.init_args.corpus", other)
    status, _, err = type_command(capsys, "resume", "latest", "--runs", runs_dir, *words)
    assert (status, "began with data.init_args.corpus" in err) == (2, True)


def test_sampling_without_a_checkpoint(runs_dir: Path, capsys: Any) -> None:
    (run,) = list_runs(runs_dir)
    shutil.rmtree(run.checkpoints)
    status, _, err = type_command(capsys, "sample", "latest", "--runs", runs_dir)
    assert (status, "has no checkpoint" in err) == (2, True)


def test_a_prompt_that_is_no_music(runs_dir: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "broken.mid").write_bytes(b"MThd and no more")
    for prompt in (tmp_path / "broken.mid", tmp_path / "missing.mid"):
        status, _, err = type_command(capsys, "sample", "latest", "--runs", runs_dir, "--prompt", prompt)
        assert (status, f"The prompt cannot be read. {prompt}" in err, len(err.splitlines())) == (2, True, 1)
