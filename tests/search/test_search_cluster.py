"""The same search on the workers of a Dask cluster, within this process and over two machines that are none."""

from __future__ import annotations

import json
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

from musictrain.cli.exits import CommandError
from musictrain.cli.search_driving import Driver, Trials
from musictrain.cli.search_workers import as_they_come, check_workers, cluster_workers, local_workers, versions
from musictrain.runs import RunFolder, list_runs
from musictrain.runs.status import read_status
from musictrain.search.folder import SearchFolder
from musictrain.search.ledger import read_ledger
from musictrain.search.trial_job import Outcome, Task
from tests.cli.tiny import tiny_config, write_config, write_corpus
from tests.ports import free_port
from tests.search.fake_trials import LAST, planned_of, search_of, task_of, train_at_once
from tests.search.test_search_driving import Quiet, told
from tests.strategies.two_nodes import ADDRESSES, can_make_nodes, on_node, two_nodes

distributed = pytest.importorskip("distributed")

BOUND_SECONDS = 1200.0
LOOK_SECONDS = 0.2
SILENT = {"class_path": "musictrain.callbacks.WriteSamples", "init_args": {"num": 0, "continuations": 0}}


@contextmanager
def cluster_here(threads: int) -> Iterator[str]:
    """The address of a scheduler with one worker, both in this process."""
    # Without a host it would ask which way leads out of this machine.
    how = {"processes": False, "host": "127.0.0.1", "protocol": "tcp://", "dashboard_address": None}
    with distributed.LocalCluster(1, threads_per_worker=threads, **how) as cluster:
        yield cluster.scheduler_address


def test_a_cluster_comes_to_what_one_machine_comes_to(tmp_path: Path) -> None:
    definition = search_of((5.0, 1.0, 4.0, 2.0, 3.0), (3, 6, LAST), "halving", seeds=(0, 1))
    with cluster_here(threads=2) as address, cluster_workers(address, train_at_once) as many:
        assert many.slots == 2
        for place, work in (("one", local_workers(2, train_at_once)), ("many", many)):
            folder = SearchFolder(tmp_path / place / "runs" / "small")
            folder.path.mkdir(parents=True)
            trials = Trials(definition, folder, planned_of(definition), lambda job: [f"x={json.dumps(job.point.values['x'])}"], LAST)
            assert Driver(trials, work, Quiet()).run() == 0
    assert told(tmp_path / "many") == told(tmp_path / "one")
    assert len(told(tmp_path / "one")) == 10


def give_up(task: Task) -> Outcome:
    """What a scheduler says of a job whose workers were killed again and again."""
    raise RuntimeError(f"all workers of {task.run} died")


def test_a_cluster_that_gives_up_is_told_in_words(tmp_path: Path) -> None:
    task = task_of(SearchFolder(tmp_path / "runs" / "small"))
    words = r"The cluster at tcp://.* has given up: RuntimeError: all workers of small-"
    with cluster_here(1) as address, cluster_workers(address, give_up) as work, pytest.raises(CommandError, match=words):
        list(as_they_come(work, [task], 0.01))


class Client:
    """Stands in for Dask's, with one worker."""

    def __init__(self, found: Any) -> None:
        self._found = found

    def wait_for_workers(self, number: int, timeout: float) -> None:
        if self._found is None:
            raise TimeoutError("no worker came")

    def run(self, what: Any, on_error: str) -> dict[str, Any]:
        return {"tcp://10.0.0.2:1": self._found}


def test_a_cluster_without_workers_is_refused() -> None:
    with pytest.raises(CommandError, match=r"The Dask scheduler at tcp://x has no workers\. Start some: `dask worker tcp://x"):
        check_workers(Client(None), "tcp://x")


def test_a_scheduler_that_writes_no_file_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musictrain.cli.search_workers.WORKERS_SECONDS", 0.0)
    with pytest.raises(CommandError, match="No Dask scheduler has written"), cluster_workers(str(tmp_path / "none.json")):
        pass


def test_a_worker_with_other_packages_is_refused() -> None:
    check_workers(Client(versions()), "tcp://x")
    with pytest.raises(CommandError, match=r"tcp://10.0.0.2:1 is another than this machine: torch 1.0 there"):
        check_workers(Client({**versions(), "torch": "1.0"}), "tcp://x")
    with pytest.raises(CommandError, match="cannot do the trials of this search: ModuleNotFoundError: No module named 'musictrain'"):
        check_workers(Client(ModuleNotFoundError("No module named 'musictrain'")), "tcp://x")


# The recipe.

RECIPE = Path(__file__).resolve().parents[2] / "configs" / "search_on_slurm"


def test_the_page_names_every_variable_of_the_script_and_no_other() -> None:
    script, page = (RECIPE / "slurm.sbatch").read_text(), (RECIPE / "README.md").read_text()
    assert set(re.findall(r'^: "\$\{(\w+):', script, re.MULTILINE)) == set(re.findall(r"^\| `([A-Z_]+)`", page, re.MULTILINE))
    assert subprocess.run(["bash", "-n", str(RECIPE / "slurm.sbatch")], timeout=120, check=False).returncode == 0


PROGRAM = """#!/usr/bin/env bash
echo "$@" >> "$0.asked"
case "$*" in
  *dask_scheduler*|*dask_worker*) exec sleep 300;;
  *) trap 'exit 143' TERM; touch "$0.up"; while true; do sleep 0.1; done;;
esac
"""


def test_a_job_whose_time_is_up_tells_the_search_and_queues_again(tmp_path: Path) -> None:
    for name, text in {"python": PROGRAM, "srun": '#!/usr/bin/env bash\nshift\nexec "$@"\n', "scontrol": PROGRAM.split("case")[0]}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711", "SHARED": str(tmp_path)}
    words = ["bash", str(RECIPE / "slurm.sbatch"), "--config", "chorales"]
    job = subprocess.Popen(words, env={**os.environ, **variables}, cwd=tmp_path, start_new_session=True)
    try:
        until(lambda: (tmp_path / "python.up").exists(), job)
        job.send_signal(signal.SIGTERM)
        assert job.wait(BOUND_SECONDS) == 143
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    asked = (tmp_path / "python.asked").read_text()
    assert f"-m musictrain search --cluster {tmp_path}/.musictrain-dask-4711.json --config chorales" in asked
    assert asked.count("--scheduler-file") == 2
    assert (tmp_path / "scontrol.asked").read_text() == "requeue 4711\n"


# Two machines.


def start_worker(node: str, address: str, folder: Path, stack: ExitStack) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny"]
    process = on_node(node, [*words, "--local-directory", str(folder)], {"PYTHONPATH": str(Path.cwd())}, start_new_session=True)
    stack.callback(end, process)
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(60)


def until(what: Any, process: subprocess.Popen[Any]) -> None:
    limit = time.monotonic() + BOUND_SECONDS
    while not what():
        assert process.poll() is None, f"it has ended with {process.returncode}"
        assert time.monotonic() < limit, "that took too long"
        time.sleep(LOOK_SECONDS)


def trains(runs: Path) -> list[RunFolder]:
    """The runs that have done a step and go on."""
    found = [(run, read_status(run.status)) for run in list_runs(runs)]
    return [run for run, status in found if status is not None and status.step > 0 and status.shown_state() == status.state == "training"]


@pytest.mark.slow
@pytest.mark.skipif(not can_make_nodes(), reason="it takes root and the program ip to make two network namespaces")
def test_a_search_over_two_machines_loses_a_worker_and_no_trial(tmp_path: Path) -> None:
    config = tiny_config(write_corpus(tmp_path / "frames.json"))
    # Long enough to be met at work.
    config["trainer"] |= {"max_steps": 300, "val_check_interval": 50, "limit_val_batches": 1, "callbacks": [SILENT]}
    file, runs = write_config(tmp_path / "tiny.yaml", config), tmp_path / "runs"
    with two_nodes() as (first, second), ExitStack() as stack:
        address = f"tcp://{ADDRESSES[0]}:{free_port()}"
        words = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", address, "--no-dashboard"]
        stack.callback(end, on_node(first, words, {}, start_new_session=True))
        lost = start_worker(second, address, tmp_path, stack)
        words = ["search", "--config", str(file), "--grid", "model.init_args.optimizer.init_args.lr=0.001,0.002", "--name", "two"]
        words += ["--runs", str(runs), "--cluster", address]
        log = (tmp_path / "search.log").open("w")
        stack.callback(log.close)
        driver = on_node(
            first, [sys.executable, "-m", "musictrain", *words], {"PYTHONPATH": str(Path.cwd())}, stdout=log, stderr=subprocess.STDOUT
        )
        stack.callback(end, driver)
        until(lambda: trains(runs), driver)
        os.killpg(os.getpgid(lost.pid), signal.SIGKILL)
        start_worker(first, address, tmp_path, stack)
        assert driver.wait(BOUND_SECONDS) == 0, (tmp_path / "search.log").read_text()[-3000:]
    trials = read_ledger(runs / "two" / "trials.jsonl").trials.values()
    assert [(trial.last.state, trial.step) for trial in trials] == [("finished", 300)] * 2
    assert len(list_runs(runs)) == 2
    for run in list_runs(runs):
        starts = [json.loads(line)["event"] for line in run.events.read_text().splitlines()]
        assert starts.count("started") == 1
        assert starts.count("resumed") == 0, "the process has outlived its worker"
