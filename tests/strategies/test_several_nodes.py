"""The recipes for several machines run as they stand: torchrun over two namespaces, SLURM's with programs that stand in for its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from musictrain.checkpoints.catalog import list_versions
from musictrain.checkpoints.verification import verify
from musictrain.cli.commands import main
from musictrain.cli.recipes import recipes
from musictrain.runs import list_runs
from musictrain.strategies.spreading import started_from_outside
from tests.house.test_docs_commands import blocks_of, commands_of
from tests.ports import free_port
from tests.strategies.launched import BOUND_SECONDS, ELASTIC, config_of, fit_words, run_to_end, steps_saved, until
from tests.strategies.slurm_stand_in import make_programs, of_job, of_task
from tests.strategies.two_nodes import ADDRESSES, can_make_nodes, on_node, pull_the_cable, two_nodes

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = REPOSITORY / "configs" / "several_nodes"
TORCHRUN, SLURM = RECIPES / "torchrun.sh", RECIPES / "slurm.sbatch"

# What is written down.


@pytest.mark.parametrize("script", [TORCHRUN, SLURM], ids=lambda path: path.name)
def test_scripts_are_bash(script: Path) -> None:
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_torchrun_has_to_know_where_the_first_machine_is() -> None:
    known = {name: value for name, value in os.environ.items() if name != "MASTER_ADDR"}
    done = subprocess.run(["bash", str(TORCHRUN)], env=known, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "the address of the first machine" in done.stderr


def test_the_page_names_every_variable_of_the_scripts_and_no_other() -> None:
    page = (RECIPES / "README.md").read_text(encoding="utf-8")
    in_scripts = {name for script in (TORCHRUN, SLURM) for name in re.findall(r'^: "\$\{(\w+):', script.read_text(), re.MULTILINE)}
    in_table = set(re.findall(r"^\| `([A-Z_]+)`", page, re.MULTILINE))
    assert in_scripts | {"NODE_ADDR"} == in_table


def commands_of_page() -> list[list[str]]:
    return commands_of(blocks_of((RECIPES / "README.md").read_text(encoding="utf-8")))


@pytest.mark.parametrize("words", [words for words in commands_of_page() if words[1] == "fit"], ids=" ".join)
def test_the_commands_of_the_page_are_understood(words: list[str], capsys: Any) -> None:
    status: object = 0
    try:
        status = main([*words[1:], "--print_config"])
    except SystemExit as stop:
        status = stop.code
    printed = capsys.readouterr()
    assert status in (0, None), printed.err
    assert "trainer:" in printed.out


def test_the_page_has_commands_and_its_scripts_exist() -> None:
    assert len(commands_of_page()) >= 2
    named = re.findall(r"(?:bash|sbatch) ([\w./]+\.(?:sh|sbatch))", (RECIPES / "README.md").read_text(encoding="utf-8"))
    assert {Path(name).name for name in named} == {TORCHRUN.name, SLURM.name}
    assert all((REPOSITORY / name).is_file() for name in named)


def test_the_folder_is_no_recipe() -> None:
    assert "several_nodes" not in recipes()
    assert "chorales" in recipes()


# Who has started us: our reading of the environment is Lightning's.


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {**of_job(2), **of_task(1)},
        {**of_job(8), **of_task(1), "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"},
        {**of_job(2), **of_task(1), "SLURM_JOB_NAME": "interactive"},
        {**of_job(2), **of_task(0), "TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "3", "WORLD_SIZE": "6", "RANK": "0"},
    ],
    ids=["alone", "srun on one machine", "srun on two", "an interactive job", "torchrun inside of SLURM"],
)
def test_who_started_the_processes_is_seen_as_lightning_sees_it(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    environment = next((kind() for kind in (TorchElasticEnvironment, SLURMEnvironment) if kind.detect()), None)
    found = started_from_outside()
    assert (found is None) == (environment is None)
    if found is not None and environment is not None:
        assert found[0] * found[1] == environment.world_size()
        environment.validate_settings(num_devices=found[0], num_nodes=found[1])


# torchrun.


def on_this_machine() -> dict[str, str]:
    """What the script is told for two processes on one node."""
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODES": "1", "PROCESSES": "2", "PYTHON": sys.executable}


@pytest.mark.slow
def test_the_script_starts_lost_processes_again(tmp_path: Path) -> None:
    words = ["bash", str(TORCHRUN), *fit_words(config_of(tmp_path), tmp_path / "runs")[1:]]
    status, printed = run_to_end(words, tmp_path / "log", **on_this_machine(), RESTARTS="1")
    assert status == 0, printed
    assert (tmp_path / "killed").exists()
    assert "resumed  v000003_step000006.ckpt" in printed
    assert "Finished after 16 steps" in printed


@pytest.mark.slow
def test_music_that_is_not_there_ends_all_processes(tmp_path: Path) -> None:
    words = ["bash", str(TORCHRUN), *fit_words(config_of(tmp_path), tmp_path / "runs", "--data.corpus", str(tmp_path / "nowhere"))[1:]]
    status, printed = run_to_end(words, tmp_path / "log", **on_this_machine())
    assert status != 0
    assert "nowhere" in printed


def pids_on(node: str) -> list[int]:
    listed = subprocess.run(["ip", "netns", "pids", node], capture_output=True, text=True, timeout=120, check=True)
    return [int(number) for number in listed.stdout.split()]


@contextmanager
def training_on_two_nodes(folder: Path, *more: str, **deadly: Any) -> Iterator[tuple[tuple[str, str], list[subprocess.Popen[str]]]]:
    """The script on two nodes, each with one process, until some versions are saved; nothing of it stays."""
    config = config_of(folder, rank=99, **deadly)
    with two_nodes() as nodes, ExitStack() as logs:
        programs = []
        for number, (node, address) in enumerate(zip(nodes, ADDRESSES, strict=True)):
            own = {"NODE_RANK": str(number), "NODE_ADDR": address, "MASTER_ADDR": ADDRESSES[0], "PYTHON": sys.executable, **ELASTIC}
            words = ["bash", str(TORCHRUN), *fit_words(config, folder / "runs", *more)[1:]]
            log = logs.enter_context((folder / f"node{number}.log").open("w"))
            programs.append(on_node(node, words, own, stdout=log, stderr=subprocess.STDOUT, cwd=REPOSITORY))
        try:
            until(lambda: max(steps_saved(folder / "runs"), default=0) >= 6, BOUND_SECONDS)
            yield nodes, programs
        finally:
            for number in [number for node in nodes for number in pids_on(node)]:
                os.kill(number, signal.SIGKILL)
            for program in programs:
                program.wait(20)


def assert_all_is_kept_and_one_machine_goes_on(folder: Path) -> None:
    (run,) = list_runs(folder / "runs")
    versions = list_versions(run.checkpoints)
    assert versions
    for version in versions:
        verify(version.path)
    reached = max(version.step for version in versions)
    words = fit_words(folder / "run.yaml", folder / "runs", "--ckpt_path", "auto")
    status, printed = run_to_end([sys.executable, "-m", "musictrain", *words], folder / "alone.log")
    assert status == 0, printed
    assert f"after step {reached}:" in printed
    assert list_runs(folder / "runs") == [run]


needs_nodes = pytest.mark.skipif(not can_make_nodes(), reason="network namespaces take root and the program ip")
LONG = {"steps": 120, "pause": 0.1}


@pytest.mark.slow
@needs_nodes
def test_when_a_node_dies_the_other_ends_with_clear_words_and_can_go_on_alone(tmp_path: Path) -> None:
    with training_on_two_nodes(tmp_path, **LONG) as (nodes, programs):
        for number in pids_on(nodes[1]):
            os.kill(number, signal.SIGKILL)
        assert programs[0].wait(BOUND_SECONDS) != 0
        until(lambda: not pids_on(nodes[0]), BOUND_SECONDS)
    printed = (tmp_path / "node0.log").read_text()
    assert f"Another process of this run has ended, on {ADDRESSES[1]}" in printed
    assert "--ckpt_path auto" in printed
    assert_all_is_kept_and_one_machine_goes_on(tmp_path)


@pytest.mark.slow
@needs_nodes
def test_when_a_cable_is_pulled_both_nodes_end_after_the_time_that_is_set(tmp_path: Path) -> None:
    with training_on_two_nodes(tmp_path, "--timeout_minutes", "0.5", **LONG) as (nodes, programs):
        pull_the_cable(nodes[1])
        assert all(program.wait(BOUND_SECONDS) != 0 for program in programs)
        assert not [number for node in nodes for number in pids_on(node)]
    for number in (0, 1):
        printed = (tmp_path / f"node{number}.log").read_text()
        assert "Another process of this run has not answered" in printed
        assert "--ckpt_path auto" in printed


# SLURM.


@pytest.mark.slow
def test_a_job_saves_before_its_time_is_up_queues_again_and_goes_on(tmp_path: Path) -> None:
    words = ["bash", str(SLURM), *fit_words(config_of(tmp_path, steps=30, pause=0.1, rank=99), tmp_path / "runs")[1:]]
    job = {**of_job(2), "PATH": make_programs(tmp_path / "bin"), "PYTHON": sys.executable}
    # Less than the margin of three minutes is left.
    status, printed = run_to_end(words, tmp_path / "first.log", **job, SLURM_JOB_END_TIME=str(int(time.time()) + 120))
    assert status == 143, printed
    assert (tmp_path / "bin" / "asked").read_text() == "requeue 4711\n"
    stopped = max(steps_saved(tmp_path / "runs"))
    assert 0 < stopped < 30
    status, printed = run_to_end(words, tmp_path / "second.log", **job, SLURM_RESTART_COUNT="1")
    assert status == 0, printed
    assert f"after step {stopped}:" in printed
    assert "exact: as if there had been no interruption" in printed
    assert max(steps_saved(tmp_path / "runs")) == 30
    assert (tmp_path / "bin" / "asked").read_text() == "requeue 4711\n"


@pytest.mark.slow
def test_a_job_with_a_mistake_does_not_queue_again(tmp_path: Path) -> None:
    words = ["bash", str(SLURM), *fit_words(config_of(tmp_path), tmp_path / "runs", "--trainer.max_step", "3")[1:]]
    status, printed = run_to_end(words, tmp_path / "log", **of_job(2), PATH=make_programs(tmp_path / "bin"), PYTHON=sys.executable)
    assert status == 2
    assert "max_steps" in printed
    assert not (tmp_path / "bin" / "asked").exists()
