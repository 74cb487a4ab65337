"""Real W&B runs, offline: what their files hold, and what they never do."""

from __future__ import annotations

import getpass
import importlib.util
import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback

from musictrain.loggers import WandB
from musictrain.loggers.wandb_logger import chosen_mode
from tests.loggers.logged_fits import HOSTILE, Sampling, fit
from tests.loggers.wandb_file import records, rows

pytest.importorskip("wandb")
pytestmark = pytest.mark.slow


def settled(folder: Path, resumed_from: int | None = None, **options: Any) -> WandB:
    folder.mkdir(parents=True, exist_ok=True)
    logger = WandB(**options)
    logger.settle(folder, resumed_from)
    return logger


def outside() -> dict[str, str]:
    """The environment without the address of W&B's process for this one."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}


def curve(folder: Path, name: str = "train/loss") -> list[tuple[int, float]]:
    return [(row["trainer/global_step"], row[name]) for row in rows(folder) if name in row]


def test_rows_media_and_settings_are_in_its_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {lr: 0.1, api_key: k3y-of-ada-0815}\n")
    fit(tmp_path, settled(tmp_path), 4, callbacks=(Sampling(tmp_path, HOSTILE.replace("/", "")),))
    assert curve(tmp_path) == [(1, 0.0), (2, 1.0), (3, 2.0), (4, 3.0)]
    assert curve(tmp_path, "val/loss") == [(2, 2.0), (4, 4.0)]
    (run, *_) = [record.run for record in records(tmp_path) if record.HasField("run")]
    assert (run.project, run.display_name) == ("musictrain", tmp_path.name)
    assert {item.key: json.loads(item.value_json) for item in run.config.update}["model"] == {"lr": 0.1, "api_key": "***"}
    media = [row for row in rows(tmp_path) if any(key.endswith("/roll._type") for key in row)]
    assert [row["trainer/global_step"] for row in media] == [2, 4]
    kinds = {media[0][key]: media[0][key.replace("._type", ".path")] for key in media[0] if key.endswith("._type")}
    files = {kind: next(tmp_path.glob(f"wandb/offline-run-*/files/{path}")) for kind, path in kinds.items()}
    sample = tmp_path / "samples" / "step_000002" / HOSTILE.replace("/", "")
    assert files["image-file"].read_bytes() == sample.with_name(f"{sample.name}.png").read_bytes()
    assert files["audio-file"].read_bytes() == sample.with_name(f"{sample.name}.wav").read_bytes()


def test_a_resumed_run_goes_on_under_its_id_and_a_second_run_has_its_own(tmp_path: Path) -> None:
    trainer = fit(tmp_path, settled(tmp_path / "one"), 2)
    trainer.save_checkpoint(tmp_path / "at_2.ckpt")
    fit(tmp_path, settled(tmp_path / "two"), 2)
    fit(tmp_path, settled(tmp_path / "one", 2), 4, tmp_path / "at_2.ckpt")
    ids = {name: {r.run.run_id for r in records(tmp_path / name) if r.HasField("run")} for name in ("one", "two")}
    assert {name: len(found) for name, found in ids.items()} == {"one": 1, "two": 1}
    assert ids["one"] != ids["two"]
    assert ids["one"] == {(tmp_path / "one" / "wandb" / "run_id").read_text().strip()}
    assert [step for step, _ in curve(tmp_path / "one")] == [1, 2, 3, 4]
    assert [step for step, _ in curve(tmp_path / "two")] == [1, 2]


SCRIPT = """
import sys
from pathlib import Path
from musictrain.loggers import WandB
from tests.loggers.logged_fits import fit

logger = WandB()
logger.settle(Path(sys.argv[1]))
fit(Path(sys.argv[1]), logger, 2)
"""


def test_it_prints_nothing_asks_nothing_and_tells_nothing_of_the_machine(tmp_path: Path, repository: Path) -> None:
    canaries = {"WANDB_API_KEY": "c0ffee" * 6 + "abcd", "SMTP_PASSWORD": "canary-of-smtp-77", "WANDB_MODE": "online"}
    home = tmp_path / "home"
    home.mkdir()
    environment = {**outside(), **canaries, "HOME": str(home), "PYTHONPATH": str(repository)}
    run = tmp_path / "run"
    run.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(run)],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment,
        stdin=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "wandb" not in done.stdout + done.stderr
    assert curve(run) == [(1, 0.0), (2, 1.0)]
    written = {path: path.read_bytes() for path in (*run.rglob("*"), *home.rglob("*")) if path.is_file()}
    assert not any(value.encode() in content for value in ("c0ffee", "canary-of-smtp-77") for content in written.values())
    (binary,) = [content for path, content in written.items() if path.suffix == ".wandb"]
    for private in (socket.gethostname(), getpass.getuser(), str(repository)):
        assert len(private) < 4 or private.encode() not in binary
    assert not [path.name for path in written if path.name in {"wandb-metadata.json", "requirements.txt", "diff.patch"}]


class KillsItsProcess(Callback):
    """Ends W&B's own process after the second step, as an out-of-memory killer would."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 2:
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            for child in children:
                if b"wandb-core" in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(int(child), 9)
                    os.waitpid(int(child), 0)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the process by /proc")
def test_if_its_process_dies_training_goes_on_and_says_so_once(tmp_path: Path, repository: Path) -> None:
    script = SCRIPT.replace("logger, 2)", "logger, 60, callbacks=(KillsItsProcess(),))").replace(
        "import fit", "import fit\nfrom tests.loggers.test_wandb import KillsItsProcess\nimport logging\nlogging.basicConfig()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script + "\nprint('trained')", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**outside(), "PYTHONPATH": str(repository)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "trained" in done.stdout
    assert done.stderr.count("WandB logs no more in this run, which goes on without it") == 1


def test_a_run_that_cannot_begin_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def fails(**_: Any) -> None:
        raise wandb.errors.UsageError("no such project")

    monkeypatch.setattr(wandb, "init", fails)
    with caplog.at_level(logging.WARNING, "musictrain"):
        trainer = fit(tmp_path, settled(tmp_path), 2)
    assert trainer.global_step == 2
    assert len([record for record in caplog.records if "WandB logs no more" in record.getMessage()]) == 1


def test_without_wandb_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "musictrain\[wandb\]"'):
        WandB()


@pytest.mark.parametrize(
    ("offline", "asked", "expected"),
    [
        (True, "", "offline"),
        (True, "online", "offline"),
        (True, "disabled", "disabled"),
        (False, "", "online"),
        (False, "offline", "offline"),
        (False, "dryrun", "offline"),
        (False, "Disabled ", "disabled"),
    ],
)
def test_the_environment_can_only_keep_it_at_home(offline: bool, asked: str, expected: str) -> None:
    assert chosen_mode(offline, asked) == expected
