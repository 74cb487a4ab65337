"""verify-resume finds an exact resume exact, and names the first thing that differs in another."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import LightningModule

from musictrain.callbacks import VersionedCheckpoint, WriteSamples
from musictrain.checkpoints.catalog import version_path
from musictrain.checkpoints.comparing import differences
from musictrain.checkpoints.retention import Retention
from musictrain.checkpoints.seal import Seal
from musictrain.checkpoints.storing import store
from musictrain.cli.exits import CommandError
from musictrain.cli.verify_resume import check_stopped, compare, differs_before, last_words, short_run, told
from musictrain.cli.verify_resume_callback import Interrupt
from musictrain.runs import RunFolder
from tests.checkpoints.small_versions import tiny_tree, write_version
from tests.cli.tiny import tiny_config, type_command, write_config

FORGETFUL = '''
import os
import random

from musictrain import MusicModule


class Forgetful(MusicModule):
    """Draws from Python's generator, which no checkpoint keeps."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * random.random()


class Restless(MusicModule):
    """Draws what nothing can draw again."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (1 + os.urandom(1)[0])
'''


def run_of(folder: Path, step: int) -> RunFolder:
    write_version(folder / "checkpoints", 1, step)
    return RunFolder(folder)


def test_equal_runs_are_exact_and_others_are_not(tmp_path: Path, capsys: Any) -> None:
    assert compare(run_of(tmp_path / "a", 8), run_of(tmp_path / "b", 8), 8) == 0
    assert capsys.readouterr().out == "Exact: all 3 tensors and everything else are the same to the bit after 8 steps.\n"
    assert compare(run_of(tmp_path / "c", 8), run_of(tmp_path / "d", 9), 8) == 1
    said = capsys.readouterr().out
    assert said.startswith("Not exact. The first thing that differs is ['state_dict']['weight']: 8 of 8 elements differ")
    assert "Likely causes" in said


def test_many_differences_are_counted_and_three_are_shown() -> None:
    found = list(differences({**tiny_tree(1), "a": 1, "b": 2}, {**tiny_tree(2), "a": 3, "b": 4}))
    lines = told(found)
    assert len(found) > 3
    assert lines[3] == f"  and {len(found) - 3} other places"


def test_what_differs_before_the_interruption_is_not_put_down_to_it(tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole" / "checkpoints", tmp_path / "parted" / "checkpoints"
    for folder, weights in ((whole, (0, 1, 2)), (parted, (0, 3, 4))):
        folder.mkdir(parents=True)
        for number, filled_with in enumerate(weights, 1):
            step = 3 * (number - 1)
            store(tiny_tree(filled_with), version_path(folder, number, step), Seal("", 0, number=number, step=step, reason="validation"))
    runs = RunFolder(whole.parent), RunFolder(parted.parent)
    assert differs_before(*runs, at=3) is None
    assert differs_before(*runs, at=6) == 3
    found = list(differences(tiny_tree(1), tiny_tree(2)))
    assert "already after step 3, before the interruption" in told(found, 3)[-2]
    assert "before the interruption" not in "".join(told(found))


def test_a_training_that_was_not_interrupted_proves_nothing(tmp_path: Path) -> None:
    check_stopped(run_of(tmp_path / "a", 4), 8)
    with pytest.raises(CommandError, match=r"All 8 steps were done before the SIGTERM was obeyed.*--steps 80"):
        check_stopped(run_of(tmp_path / "b", 8), 8)


def test_a_rehearsal_writes_no_samples_removes_no_version_and_mirrors_none(tmp_path: Path) -> None:
    versions, samples = VersionedCheckpoint(tmp_path, mirror=str(tmp_path / "elsewhere"), newest=1, thin_after=5), WriteSamples()
    Interrupt(0).setup(SimpleNamespace(callbacks=[versions, samples]), LightningModule(), "fit")  # type: ignore[arg-type]
    assert (samples.num, samples.continuations, versions.mirror) == (0, 0, None)
    assert versions.retention == Retention(newest=1, thin_after=5, keep_all=True)


def test_a_short_run_validates_before_and_after_the_interruption() -> None:
    words = short_run(steps=8, at=4)
    every = int(words[words.index("--trainer.val_check_interval") + 1])
    assert every < 4
    assert 4 < 2 * every <= 8
    assert words[words.index("--trainer.max_steps") + 1] == "8"


def test_the_words_of_a_failed_training_are_passed_on() -> None:
    assert last_words("a warning\nerror: The folder is empty.\n(traceback: x)\n") == "The folder is empty."
    assert last_words("Traceback\nKeyError: 'x'\n") == "KeyError: 'x'"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "needs a configuration"),
        (["--config", "chorales", "--at", "8"], "--at 8: the interruption must come after the first step and before the last, 8"),
        (["--config", "chorals"], "Did you mean 'chorales'?"),
        (["--config", "chorales", "--steps", "none"], "expected a whole number above 0, got 'none'"),
    ],
)
def test_wrong_usage(words: list[str], complaint: str, capsys: Any) -> None:
    status, _, err = type_command(capsys, "verify-resume", *words)
    assert (status, complaint in err, len(err.splitlines())) == (2, True, 1), err


@pytest.mark.slow
def test_a_users_configuration_is_found_exact(corpus: Path, tmp_path: Path, capsys: Any) -> None:
    config = tiny_config(corpus)
    config["model"]["init_args"]["network"]["init_args"]["dropout"] = 0.3
    path = write_config(tmp_path / "mine.yaml", config)
    status, out, err = type_command(capsys, "verify-resume", "--config", path, "--steps", 6, "--at", 3, "--keep", tmp_path / "kept")
    assert (status, err) == (0, "")
    assert "6 steps until a SIGTERM after 3 ..." in out
    assert "Exact: all " in out
    assert sorted(folder.name for folder in (tmp_path / "kept").iterdir()) == ["parted", "whole"]


@pytest.mark.slow
def test_a_module_that_forgets_is_found_out(corpus: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "forgetful_module.py").write_text(FORGETFUL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    config = tiny_config(corpus)
    config["model"]["class_path"] = "forgetful_module.Forgetful"
    path = write_config(tmp_path / "mine.yaml", config)
    status, out, _ = type_command(capsys, "verify-resume", "--config", path, "--steps", 6)
    assert status == 1
    assert "Not exact. The first thing that differs is ['state_dict']['network." in out
    assert "random numbers that are not torch's" in out
    assert "before the interruption" not in out, "the generator is seeded when a run begins"


@pytest.mark.slow
def test_a_module_that_is_never_twice_the_same_is_told_from_one_that_forgets(
    corpus: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "forgetful_module.py").write_text(FORGETFUL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    config = tiny_config(corpus)
    config["model"]["class_path"] = "forgetful_module.Restless"
    status, out, _ = type_command(capsys, "verify-resume", "--config", write_config(tmp_path / "mine.yaml", config))
    assert status == 1
    assert "differ already after step 3, before the interruption" in out


@pytest.mark.slow
def test_a_configuration_that_cannot_train_says_why(tmp_path: Path, capsys: Any) -> None:
    path = write_config(tmp_path / "mine.yaml", tiny_config(tmp_path / "missing.json"))
    status, _, err = type_command(capsys, "verify-resume", "--config", path)
    assert status == 1
    assert "The training without interruption failed with exit status 2" in err
    assert "missing.json" in err
