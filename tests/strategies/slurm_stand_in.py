"""What srun does for a job step on one machine: a process for each task, their highest status, and all ended when one of them fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path


def make_programs(folder: Path) -> str:
    """``srun`` and ``scontrol`` in a folder; gives back a PATH on which they come first. ``scontrol`` notes what it was asked."""
    folder.mkdir(exist_ok=True)
    programs = {"srun": f'exec {sys.executable} -m tests.strategies.slurm_stand_in "$@"', "scontrol": f'echo "$@" >> {folder}/asked'}
    for name, line in programs.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{line}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def of_job(tasks: int, **variables: str) -> dict[str, str]:
    """The environment of a batch script."""
    counts = {"SLURM_NTASKS": str(tasks), "SLURM_NTASKS_PER_NODE": str(tasks), "SLURM_NNODES": "1", "SLURM_CPUS_PER_TASK": "1"}
    return {**counts, "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "musictrain", "SLURM_NODELIST": "127.0.0.1", **variables}


def of_task(rank: int) -> dict[str, str]:
    """What srun adds for each process."""
    return {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0"}


def srun(words: list[str]) -> int:
    """Run the tasks of this job step."""
    ends_all = "--kill-on-bad-exit=1" in words
    program = [word for word in words if not word.startswith("--kill-on-bad-exit")]
    tasks = [subprocess.Popen(program, env={**os.environ, **of_task(rank)}) for rank in range(int(os.environ["SLURM_NTASKS"]))]
    while any(task.poll() is None for task in tasks):
        if ends_all and any(task.poll() for task in tasks):
            # SLURM gives them KillWait, half a minute as a rule.
            time.sleep(5)
            for task in tasks:
                task.kill()
        time.sleep(0.1)
    return max(task.returncode if task.returncode >= 0 else 128 - task.returncode for task in tasks)


if __name__ == "__main__":
    sys.exit(srun(sys.argv[1:]))
