"""One tiny corpus, and one finished run of it that is only looked at."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from musictrain.cli.commands import main
from tests.cli.tiny import tiny_config, write_config, write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "frames.json")


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    return write_config(tmp_path_factory.mktemp("configs") / "tiny.yaml", tiny_config(corpus))


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory, config_file: Path) -> Path:
    """A runs folder with one finished run."""
    runs_dir = tmp_path_factory.mktemp("finished") / "runs"
    assert main(["fit", "--config", str(config_file), "--runs", str(runs_dir), "--name", "done"]) == 0
    return runs_dir


@pytest.fixture
def runs_dir(finished_runs: Path, tmp_path: Path) -> Path:
    """A copy of the finished run's folder, to be changed at will."""
    return Path(shutil.copytree(finished_runs, tmp_path / "runs"))
