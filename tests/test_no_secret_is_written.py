"""Secrets never reach a file: canaries are planted wherever secrets come from, and everything a run writes is searched for them."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from musictrain.cli.commands import COMMANDS
from musictrain.loggers import RunLogger
from musictrain.notifications import Message
from musictrain.runs import RunFolder, atomic_write, describe_environment, list_runs
from musictrain.runs.alerts import alert
from musictrain.runs.secrets import OURS, hidden_config
from musictrain.runs.train_log import TrainLog
from tests.canaries import leaks
from tests.cli.tiny import tiny_config, write_config, write_corpus

ENVIRONMENT = {
    "environment": ("MY_SERVICE_API_KEY", 'canary-in-env "q"/ü&+'),
    "mail password": ("MUSICTRAIN_SMTP_PASSWORD", "canary of mail p4ss"),
    "tracker": ("WANDB_API_KEY", "canary0000000000000000000000000000000123"),
    "proxy": ("MY_PROXY", "http://ada:canary-in-proxy@127.0.0.1:9"),
}
CANARIES = {
    **{name: value for name, (_, value) in ENVIRONMENT.items()},
    "proxy": "canary-in-proxy",
    "configuration": "canary-in-config: 'x'",
    "url": "canary-in-url",
    "query": "canary-in-query",
    "command line": "canary-on-line",
    "working copy": "canary-in-diff",
}

PARTS = '''
import logging
import os
import warnings

from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger

from musictrain.runs.alerts import alert

log = logging.getLogger("musictrain.my_parts")


class Service(Logger):
    """A tracker with an account."""

    def __init__(self, url: str, db_password: str, api_key: str):
        super().__init__()
        self.told = f"{url} {db_password} {api_key} " + " ".join(os.environ[name] for name in os.environ if name in {NAMES})
        log.warning("The service at %s does not know %s.", url, self.told)

    name = "service"
    version = 0

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        pass


class Crash(Callback):
    """Tells everybody what it knows, and ends the run after the fourth step."""

    def on_train_batch_end(self, trainer, *args):
        told = trainer.loggers[-1].told
        if trainer.global_step == 3:
            warnings.warn(f"a warning about {told}")
            alert(log, f"an alert about {told}", kind="told", advice=f"Forget {told}.", step=3, password=told)
            logging.getLogger("lightning.pytorch").warning("lightning knows %r", told)
        if trainer.global_step == 4 and not os.path.exists("went_on"):
            open("went_on", "w").close()
            try:
                raise ValueError(f"inside: {told}")
            except ValueError as error:
                raise RuntimeError(f"outside: {told}") from error
'''


class Place:
    """A working copy with a configuration that knows secrets, and a way to type commands in it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.cwd, self.runs = folder, folder / "cwd", folder / "runs"
        self.cwd.mkdir()
        (folder / "tmp").mkdir()
        (self.cwd / "my_parts.py").write_text(PARTS.replace("{NAMES}", str([name for name, _ in ENVIRONMENT.values()])))
        self.config = write_config(self.cwd / "secretive.yaml", self._config())
        self._git()
        self.environment = {
            **os.environ,
            **dict(ENVIRONMENT.values()),
            **{"PYTHONPATH": os.pathsep.join([str(self.cwd), str(Path(__file__).resolve().parents[1])]), "OMP_NUM_THREADS": "1"},
            **{"MUSICTRAIN_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp"), "WANDB_MODE": "offline"},
        }

    def _config(self) -> dict[str, Any]:
        config = tiny_config(write_corpus(self.cwd / "frames.json"))
        url = f"https://ada:{CANARIES['url']}@127.0.0.1:9/x?token={CANARIES['query']}"
        config["trainer"]["logger"] = {
            "class_path": "my_parts.Service",
            "init_args": {"url": url, "db_password": CANARIES["configuration"], "api_key": "set on the command line"},
        }
        config["trainer"]["callbacks"] += [
            {"class_path": "my_parts.Crash"},
            {
                "class_path": "musictrain.callbacks.Notifications",
                "init_args": {"file": True, "mail": {"host": "127.0.0.1", "port": 9, "to": "a@b.c", "user": "ada"}, "wait_seconds": 0.1},
            },
        ]
        return config

    def _git(self) -> None:
        settings = self.cwd / "settings.py"
        settings.write_text("")
        for words in ("init -q", "add settings.py", "-c user.name=a -c user.email=a@b.c -c commit.gpgsign=false commit -qm first"):
            subprocess.run(["git", *words.split()], cwd=self.cwd, check=True, capture_output=True, timeout=300)
        settings.write_text(f'DB_PASSWORD = "{CANARIES["working copy"]}"\nOTHER = "{CANARIES["environment"]}"\n')

    def type(self, *words: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "musictrain", *map(str, words), "--runs", str(self.runs)]
        return subprocess.run(command, cwd=self.cwd, env=self.environment, capture_output=True, text=True, timeout=900)

    def leaks(self) -> list[str]:
        inputs = (self.cwd / "settings.py", self.config, self.cwd / ".git")
        return leaks(self.folder, CANARIES, without=inputs)


@pytest.mark.slow
def test_a_run_with_everything_on_writes_no_secret_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path, monkeypatch)
    key = ("--trainer.logger.init_args.api_key", CANARIES["command line"])
    crashed = place.type("fit", "--config", place.config, *key)
    assert crashed.returncode == 1, crashed.stderr
    assert "outside: ***" in crashed.stderr or "RuntimeError" in crashed.stderr
    (run,) = list_runs(place.runs)
    assert "canary" not in crashed.stderr + crashed.stdout
    assert yaml.safe_load(run.config.read_text())["trainer"]["logger"]["init_args"]["api_key"] == "***"
    assert "***" in json.loads(run.environment.read_text())["git"]["diff"]
    assert place.leaks() == []

    refused = place.type("resume", "latest")
    assert refused.returncode == 2, refused.stderr
    assert "trainer.logger.init_args.api_key" in refused.stderr
    secrets = tmp_path / "cwd" / "again.yaml"
    secrets.write_text(yaml.safe_dump({"trainer": {"logger": yaml.safe_load(place.config.read_text())["trainer"]["logger"]}}))
    resumed = place.type("resume", "latest", "--config", secrets, *key)
    assert resumed.returncode == 0, resumed.stderr
    secrets.unlink()
    assert "canary" not in resumed.stderr + resumed.stdout

    for words in (
        ["checkpoints", "export", "latest", "--to", place.folder / "out.ckpt"],
        ["checkpoints", "export", "latest", "--to", place.folder / "out.safetensors"],
        *([command, "latest"] for command in ("report",) if command in {each.name for each in COMMANDS}),
        ["runs", "reindex"],
        ["notify", "--test", "latest"],
        ["sample", "latest", "--n", "1", "--beats", "2"],
    ):
        done = place.type(*words)
        assert done.returncode == (1 if words[0] == "notify" else 0), done.stderr
        assert "canary" not in done.stderr + done.stdout
    assert (place.folder / "out.ckpt").is_file()
    assert place.leaks() == []


@pytest.mark.slow
@pytest.mark.parametrize(("tracker", "file"), [("TensorBoard", "*.tfevents.*"), ("WandB", "*.wandb")])
def test_trackers_are_told_no_secret(tracker: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if tracker == "WandB":
        pytest.importorskip("wandb")
    place = Place(tmp_path, monkeypatch)
    config = yaml.safe_load(place.config.read_text())
    config["trainer"]["logger"] = [{"class_path": f"musictrain.loggers.{tracker}"}, config["trainer"]["logger"]]
    write_config(place.config, config)
    crashed = place.type("fit", "--config", place.config)
    assert crashed.returncode == 1, crashed.stderr
    assert "RuntimeError" in crashed.stderr
    assert [path for path in place.folder.rglob(file) if path.stat().st_size > 0]
    assert place.leaks() == []


def test_records_logs_and_messages_hold_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.values():
        monkeypatch.setenv(name, value)
    run = RunFolder(tmp_path)
    config = {"logger": {"db_password": CANARIES["configuration"], "url": f"ftp://a:{CANARIES['url']}@b/?token={CANARIES['query']}"}}
    command = ["fit", "--x.api_key", CANARIES["command line"], f"--y={CANARIES['environment']}"]
    atomic_write(run.config, yaml.safe_dump(hidden_config(config)))
    atomic_write(run.environment, json.dumps(describe_environment(command=command, source=tmp_path)))
    told = " ".join(value for name, value in CANARIES.items() if name != "working copy") + " "
    log = TrainLog()
    log.listen()
    log.open(run.log, events=run.events)
    alert(logging.getLogger("musictrain.x"), told, kind="told", advice=told, token=told)
    try:
        raise RuntimeError(told)
    except RuntimeError:
        logging.getLogger("musictrain.x").exception("It ended: %r", told)
    log.stop()
    rows = RunLogger(folder=run.path)
    rows.log_metrics({"loss": 1.0, "remark": told}, step=1)
    rows.finalize("success")
    assert run.metrics.read_text().count("***") > 3
    message = Message("failure", run, told, details={"reason": told, "password": told})
    atomic_write(tmp_path / "mail.txt", message.subject() + message.text() + json.dumps(message.as_record()))
    assert leaks(tmp_path, CANARIES) == []
    assert run.events.read_text().count("***") > 10
    assert OURS.hide(CANARIES["command line"]) == "***"


@pytest.mark.parametrize(
    "write",
    [
        lambda value: value.encode(),
        lambda value: json.dumps(value).encode(),
        lambda value: f"x?y={quote(value)}".encode(),
        lambda value: base64.b64encode(f"ada:{value} and more".encode()),
        lambda value: base64.b64encode(f"ad:{value}".encode()),
        lambda value: gzip.compress(value.encode()),
    ],
)
def test_the_search_finds_what_is_there(write: Any, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file.bin").write_bytes(b"before " + write(CANARIES["environment"]))
    with zipfile.ZipFile(tmp_path / "packed.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("inside", write(CANARIES["environment"]))
    found = leaks(tmp_path, CANARIES)
    assert any(each.startswith("packed.zip/inside") and "the environment canary" in each for each in found)
    if write(CANARIES["environment"])[:2] != b"\x1f\x8b":
        assert any(each.startswith("deep/file.bin") for each in found)
    assert leaks(tmp_path, {"other": "another-canary"}) == []
