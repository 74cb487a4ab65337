"""fit writes a run folder, goes on where it stopped, and says how it ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningCLI

from musictrain.checkpoints import list_versions
from musictrain.cli.lightning_cli import MusicCLI, given
from musictrain.cli.run_defaults import default_callbacks, run_name
from musictrain.cli.training import how_it_finished
from musictrain.runs import RunFolder, list_runs, read_records, read_rows
from musictrain.runs.status import Status
from tests.cli.tiny import tiny_config, type_command, write_config


def test_a_run_folder_holds_everything_that_was_promised(finished_runs: Path) -> None:
    (run,) = list_runs(finished_runs)
    assert sorted(path.name for path in run.path.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "curves.png",
        "dashboard.html",
        "dashboard_data.js",
        "data_report.json",
        "data_report.md",
        "env.json",
        "events.jsonl",
        "metrics.jsonl",
        "samples",
        "status.json",
        "tokenizer.json",
        "train.log",
    ]
    versions = {version.name: version.seal.reason for version in list_versions(run.checkpoints) if version.seal is not None}
    assert versions == {"v000001_step000000": "start", "v000002_step000003": "validation", "v000003_step000006": "end"}
    assert sorted(path.name for path in (run.samples / "step_000006").glob("*.wav")) == ["continued_1.wav", "from_nothing.wav"]
    rows = read_rows(run.metrics)
    assert [row["step"] for row in rows if "train/loss" in row] == [2, 4, 6]
    assert [row["step"] for row in rows if "val/loss" in row] == [3, 6]
    assert run.name.split("-")[3] == "done"


def test_the_terminal_gets_progress_and_a_summary_and_no_adverts(config_file: Path, tmp_path: Path, capsys: Any) -> None:
    status, out, err = type_command(capsys, "fit", "--config", config_file, "--runs", tmp_path)
    (run,) = list_runs(tmp_path)
    assert status == 0
    assert out.index("network  Decoder") < out.index("step 6/6") < out.index("Finished after 6 steps.") < out.index("Next")
    for part in (
        "best val/loss",
        "versions         3 versions, ",
        "v000003_step000006.ckpt",
        "step_000006 (2 pieces",
        "resume",
        "--trainer.max_steps 12",
        f"--runs {tmp_path}",
    ):
        assert part in out
    for noise in ("litlogger", "GPU available", "Warning", "Seed set"):
        assert noise not in out + err
    log = run.log.read_text()
    assert "GPU available" in log
    assert "litlogger" not in log


def test_the_saved_configuration_is_complete_and_trains_again(finished_runs: Path, tmp_path: Path, capsys: Any) -> None:
    (run,) = list_runs(finished_runs)
    config = yaml.safe_load(run.config.read_text())
    assert config["model"]["init_args"]["network"]["init_args"]["vocab_size"] == 359
    assert config["data"]["init_args"]["seed"] == config["seed_everything"] == 7
    assert config["trainer"]["gradient_clip_val"] is None
    assert "runs" not in config
    status, _, _ = type_command(capsys, "fit", "--config", run.config, "--runs", tmp_path)
    (again,) = list_runs(tmp_path)
    assert status == 0
    assert again.best() == run.best()


def test_a_seed_of_the_datas_own_stays(corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(corpus)
    config["data"]["init_args"]["seed"] = 0
    path = write_config(tmp_path / "a.yaml", config)
    assert given(("data", "init_args", "seed"), ["--config", str(path)])
    assert given(("data", "init_args", "seed"), ["--data.seed=3"])
    assert given(("data", "init_args", "seed"), ["--data.init_args.seed", "3"])
    assert not given(("data", "init_args", "seed"), ["--data.init_args.seeds", "3"])


def test_going_on_appends_to_the_same_run(runs_dir: Path, capsys: Any) -> None:
    (run,) = list_runs(runs_dir)
    before = run.metrics.read_bytes()
    status, out, _ = type_command(capsys, "resume", "latest", "--runs", runs_dir, "--trainer.max_steps", 8)
    assert status == 0
    assert "step 8/8" in out
    assert run.metrics.read_bytes().startswith(before)
    assert read_rows(run.metrics)[-1]["step"] == 8
    assert yaml.safe_load(run.config.read_text())["trainer"]["max_steps"] == 8
    assert [event["event"] for event in own_events(read_records(run.events))] == ["started", "finished", "resumed", "finished"]


def test_a_run_that_a_rule_has_stopped_is_not_called_finished() -> None:
    stopped = Status("a", state="stopped", total=1400, reason="The time limit was reached.", advice="Go on with a longer one.")
    assert how_it_finished(1061, stopped) == "Stopped after 1,061 of 1,400 steps. The time limit was reached. Go on with a longer one."
    assert how_it_finished(1400, Status("a", state="finished", total=1400)) == "Finished after 1,400 steps."
    assert how_it_finished(7, None) == "Finished after 7 steps."


class Stop(Callback):
    """Does something after the fourth step."""

    def __init__(self, how: str) -> None:
        self.how = how

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 4:
            if self.how == "ctrl-c":
                raise KeyboardInterrupt
            if self.how == "error":
                raise KeyError("a mistake in somebody's callback")
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("how", "status"), [("ctrl-c", 130), ("sigterm", 143)])
def test_an_interrupted_run_has_saved_where_to_go_on(
    how: str, status: int, config_file: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_callback(monkeypatch, Stop(how))
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    ended, out, _ = type_command(capsys, "fit", "--config", config_file, "--runs", tmp_path)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    (run,) = list_runs(tmp_path)
    assert ended == status
    assert "Stopped; saved after step" in out
    monkeypatch.undo()
    assert type_command(capsys, "resume", "latest", "--runs", tmp_path)[0] == 0
    events = read_records(run.events)
    told = [(event["event"], event.get("step")) for event in own_events(events)]
    assert told == [("started", None), ("interrupted", 4), ("resumed", None), ("finished", 6)]


def own_events(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that tell how the run went; versions come and go beside them."""
    return [event for event in events if event["event"] in ("started", "resumed", "finished", "interrupted", "failed")]


def add_callback(monkeypatch: pytest.MonkeyPatch, callback: Callback) -> None:
    def with_it(*args: Any) -> list[Callback]:
        return [*default_callbacks(*args), callback]

    monkeypatch.setattr("musictrain.cli.lightning_cli.default_callbacks", with_it)


def test_a_failure_is_short_on_the_terminal_and_long_in_the_log(
    config_file: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_callback(monkeypatch, Stop("error"))
    status, _, err = type_command(capsys, "fit", "--config", config_file, "--runs", tmp_path)
    (run,) = list_runs(tmp_path)
    assert status == 1
    assert err == f'error: KeyError: "a mistake in somebody\'s callback"\n(traceback: {run.log})\n'
    assert "in on_train_batch_end" in run.log.read_text()


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_measuring_takes_a_run(command: str, finished_runs: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = type_command(capsys, command, "--run", "latest", "--runs", finished_runs)
    assert (status, err) == (0, "")
    assert (f"{'val' if command == 'validate' else 'test'}/nats_per_note" in out) == (command != "predict")
    assert list(tmp_path.iterdir()) == []


def options_of(cli: Any) -> set[str]:
    return {action.dest for action in cli._parser("fit")._actions}


class Unstarted(MusicCLI):
    def instantiate_classes(self) -> None:
        self.config_init = self.config

    def _run_subcommand(self, subcommand: str) -> None:
        return


class Plain(LightningCLI):
    def instantiate_classes(self) -> None:
        self.config_init = self.config

    def _run_subcommand(self, subcommand: str) -> None:
        return


def test_every_option_of_lightnings_cli_is_there(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["musictrain"])
    words = ["--config", str(config_file)]
    plain = Plain(args=["fit", *words, "--model.init_args.network.init_args.vocab_size", "359"])
    lightnings, ours = options_of(plain), options_of(Unstarted("fit", words))
    assert lightnings - ours == set()
    beginning = {"init_from", "init_vocabulary", "init_optimizer"}
    assert ours - lightnings == {"runs", "name", "matmul_precision", "timeout_minutes", "global_batch_tokens", "pause_at", *beginning}


class Settings(dict):  # type: ignore[type-arg]
    name = None


@pytest.mark.parametrize(
    ("settings", "words", "name"),
    [
        ({"data.init_args.corpus": "chorales"}, ["--config", "configs/chorales.yaml"], "chorales"),
        ({"data.init_args.corpus": "music/my_midi"}, ["--config", "configs/folder.yaml"], "my_midi"),
        ({"data.init_args.corpus": "chorales"}, ["--config=bigger.yaml"], "bigger"),
        ({"data.init_args.corpus": "ryans"}, ["--config", "runs/x/config.yaml"], "ryans"),
        ({}, [], "run"),
    ],
)
def test_a_run_is_named_after_what_sets_it_apart(settings: dict[str, str], words: list[str], name: str) -> None:
    assert run_name(Settings(settings), words) == name


NETWORKS = '''
import torch


class Bare(torch.nn.Module):
    """Takes nothing but the vocabulary."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.vocab_size = vocab_size
        self.logits = torch.nn.Embedding(vocab_size, vocab_size)

    def forward(self, tokens):
        return self.logits(tokens)


class Foreign(torch.nn.Module):
    """Knows of no vocabulary."""

    def __init__(self, width: int = 359):
        super().__init__()
        self.logits = torch.nn.Embedding(width, width)

    def forward(self, tokens):
        return self.logits(tokens)
'''


@pytest.mark.parametrize("network", ["Bare", "Foreign"])
def test_any_network_with_the_contract_trains_and_plays(
    network: str, corpus: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    config = tiny_config(corpus)
    config["model"]["init_args"]["network"] = {"class_path": f"my_networks.{network}"}
    path = write_config(tmp_path / "mine.yaml", config)
    status, out, err = type_command(capsys, "fit", "--config", path, "--runs", tmp_path / "runs", "--trainer.max_steps", 3)
    assert (status, err) == (0, "")
    assert f"network  {network}, 128,881 parameters" in out
    status, out, err = type_command(capsys, "sample", "latest", "--n", 1, "--beats", 2, "--runs", tmp_path / "runs")
    assert (status, err) == (0, "")
    assert "sample_1" in out


def test_a_users_callback_takes_the_place_of_the_default(finished_runs: Path) -> None:
    (run,) = list_runs(finished_runs)
    assert len(list((run.samples / "step_000006").glob("*.mid"))) == 2
    assert RunFolder(run.path).best() is not None
