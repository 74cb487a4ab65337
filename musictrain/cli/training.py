"""``fit``, ``validate``, ``test`` and ``predict``: Lightning's commands with a run folder, short errors and a summary at the end."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from musictrain.checkpoints.catalog import best_versions, list_versions
from musictrain.cli.checkpoint_looking import footing
from musictrain.cli.console import program, quiet_terminal, rank_of_process, report_failure
from musictrain.cli.exits import FAILED, FINISHED, INTERRUPTED, STOPPED_BY_RULE, TERMINATED, CommandError, UsageError
from musictrain.cli.one_decision import first_decides, place_of_process
from musictrain.cli.options import default_runs_dir
from musictrain.cli.parse_errors import innermost
from musictrain.cli.recipes import recipes, with_recipes
from musictrain.cli.version_choice import version_of
from musictrain.dashboard.settings import read_config
from musictrain.runs import RunFolder, find_run
from musictrain.runs.endings import paused_after
from musictrain.runs.folder import BEST_METRIC
from musictrain.runs.index import update_run
from musictrain.runs.processes import BEGIN_IN
from musictrain.runs.status import Status, read_status
from musictrain.runs.summary import shown, summary
from musictrain.runs.train_log import TrainLog

log = logging.getLogger(__name__)


def run(command: str, arguments: list[str]) -> int:
    """One of Lightning's commands; gives back the exit status.

    Raises:
        UsageError: if the command line or a configuration file cannot be understood, or together they cannot work.
    """
    words = with_recipes(arguments if command == "fit" else with_run(arguments))
    if command == "fit" and not words:
        raise UsageError(f"fit needs a configuration: musictrain fit --config NAME. Recipes: {', '.join(recipes())}; or a file of yours.")
    return train(command, words, folder=folder_to_begin_in() if command == "fit" else None)


def folder_to_begin_in() -> Path | None:
    """The run folder that whoever started this process has made for it, such as the protocol that it is a stage of; None for a new one."""
    given = os.environ.get(BEGIN_IN)
    return Path(given) if given else None


def with_run(arguments: list[str]) -> list[str]:
    """The command line with ``--run RUN`` turned into that run's configuration and best checkpoint.

    Raises:
        RunNotFoundError: if there is no such run.
        UsageError: if it has no checkpoint.
    """
    if "--run" not in arguments:
        return arguments
    position = arguments.index("--run")
    if position + 1 == len(arguments):
        raise UsageError("--run needs a run: a folder, a name, a unique part of one, 'latest' or 'best'.")
    rest = [*arguments[:position], *arguments[position + 2 :]]
    found = find_run(arguments[position + 1], runs_dir_of(rest))
    return ["--config", str(found.config), "--ckpt_path", str(version_of(found, "best")), *rest]


def runs_dir_of(arguments: list[str]) -> Path:
    """What ``--runs`` says on a command line that Lightning has not parsed yet, or its default."""
    for position, word in enumerate(arguments):
        option, equals, value = word.partition("=")
        if option == "--runs" and (equals or position + 1 < len(arguments)):
            return Path(value if equals else arguments[position + 1])
    return default_runs_dir()


def train(command: str, words: list[str], folder: Path | None = None, callbacks: Sequence[Any] = ()) -> int:
    """Parse, build and run under a quiet terminal; in ``folder`` if a run is to go on there, with further callbacks."""
    runs_dir = runs_dir_of(words)
    with quiet_terminal() as train_log:
        try:
            cli = start(command, words, train_log, folder, callbacks)
        except (UsageError, CommandError):
            raise
        except (KeyboardInterrupt, SystemExit) as stop:
            return how_it_ended(stop, train_log)
        except BaseException as error:
            if train_log.path is None and isinstance(error, ValueError):
                # Before a run has begun, a ValueError says that what was asked for cannot work.
                raise UsageError(innermost(str(error))) from error
            report_failure(error, train_log, runs_dir)
            return FAILED
        finally:
            if command == "fit" and rank_of_process() == 0 and train_log.path is not None:
                tell_index(RunFolder(train_log.path.parent))
    return in_all_processes(cli.trainer, lambda: tell_end(cli, runs_dir)) if command == "fit" else FINISHED


def tell_end(cli: Any, runs_dir: Path) -> int:
    """Print what the run has come to, in its first process; gives back the exit status."""
    if cli.run_logger is None or not cli.run_logger.started:
        return FINISHED
    print_summary(cli, runs_dir)
    return status_of_fit(cli.trainer, read_status(RunFolder(Path(cli.run_logger.save_dir)).status))


def tell_index(run: RunFolder) -> None:
    """What a run has come to, for ``musictrain runs``, which would find out by itself and later."""
    if run.status.is_file():
        update_run(run.path.parent, run, read_config)


def start(command: str, words: list[str], train_log: TrainLog, folder: Path | None, callbacks: Sequence[Any]) -> Any:
    """Import lightning, which takes seconds, and let it run; gives back the MusicCLI."""
    from musictrain.cli.lightning_cli import MusicCLI

    return MusicCLI(command, words, train_log=train_log, folder=folder, callbacks=callbacks)


def how_it_ended(stop: BaseException, train_log: TrainLog) -> int:
    """The exit status of a run that was stopped or rests, and where it can go on; Lightning exits with 1 after Ctrl-C, 0 after SIGTERM."""
    code = stop.code if isinstance(stop, SystemExit) else None
    if (rests := paused_after(stop)) is not None:
        what = shown(train_log.path.parent) if train_log.path is not None else "RUN"
        print(f"The run rests after {rests:,} steps. Go on with: {program()} resume {what}")
        return FINISHED
    interrupted = isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt) or code == INTERRUPTED
    terminated = not interrupted and (type(stop).__name__ == "SIGTERMException" or code == TERMINATED)
    if not (terminated or interrupted):
        return int(code or 0) if isinstance(code, int | None) and isinstance(stop, SystemExit) else FAILED
    if train_log.path is not None:
        run = RunFolder(train_log.path.parent)
        there = [version for version in list_versions(run.checkpoints) if version.resumable]
        step = max((version.step for version in there), default=None)
        where = f"Stopped; saved after step {step:,}. Go on with: {program()} resume {shown(run.path)}" if step is not None else ""
        print(where or "Stopped before anything was saved.")
    return TERMINATED if terminated else INTERRUPTED


def print_summary(cli: Any, runs_dir: Path) -> None:
    """What the run has come to."""
    elsewhere = runs_dir if runs_dir != default_runs_dir() else None
    run = RunFolder(Path(cli.run_logger.save_dir))
    print(f"\n{how_it_finished(cli.trainer.global_step, read_status(run.status))}")
    print(summary(run, command=program(), runs_dir=elsewhere, facts=[*kept_versions(run), *speed_of(cli.trainer)]), flush=True)
    log.info("Finished.")


def how_it_finished(step: int, status: Status | None) -> str:
    """Whether a run that no error has ended has done all its steps, or was stopped, why, and what to do."""
    if status is None or status.state != "stopped":
        return f"Finished after {step:,} steps."
    of_all = f" of {status.total:,}" if status.total is not None else ""
    return f"Stopped after {step:,}{of_all} steps. {status.reason} {status.advice}".rstrip()


def status_of_fit(trainer: Any, status: Status | None) -> int:
    """The exit status of a fit that no error has ended: 3 if it was stopped for its health, as a callback says by ``stopped_by_guard``.

    Out of patience is an end like any other. torchrun starts again whatever ends with another status than 0, as often as it was told to by
    ``--max_restarts``: what was stopped for its health would begin anew, so that it ends with 0 there.
    """
    if not by_guard(trainer) or status is None or status.state != "stopped":
        return FINISHED
    if restarts := int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
        log.info("Exit status %d instead of %d: torchrun has --max_restarts %d, and would begin anew.", FINISHED, STOPPED_BY_RULE, restarts)
        return FINISHED
    return STOPPED_BY_RULE


def by_guard(trainer: Any) -> bool:
    """Whether a callback has stopped the fit for its health; all processes know."""
    return any(getattr(callback, "stopped_by_guard", False) for callback in trainer.callbacks)


def in_all_processes(trainer: Any, tell: Callable[[], int]) -> int:
    """The exit status that the first process gives, in all that torchrun or SLURM has started, once it has told what there is to tell.

    Those that Lightning has started end with 0: the first one's is the program's, and Lightning kills the others if one of them fails.
    """
    is_first = trainer.is_global_zero
    status = tell() if is_first else FINISHED
    if not by_guard(trainer) or place_of_process() is None:
        return status
    try:
        return int(first_decides("how it ended", lambda: status, is_last=True))
    except RuntimeError as error:  # the first one is gone, or nobody has heard it
        log.debug("The processes did not agree on how it ended: %s", error)
        return status


def speed_of(trainer: Any) -> list[tuple[str, str]]:
    """How fast it was, if somebody measured."""
    reports = [callback for callback in trainer.callbacks if type(callback).__name__ == "ThroughputReport"]
    measured: dict[str, float] = reports[0].summary() if reports else {}
    if "tokens_per_second" not in measured:
        return []
    words = [f"{measured['tokens_per_second']:,.0f} tokens/s"]
    words += [f"{100 * measured['mfu']:.0f} % of the device's peak"] if "mfu" in measured else []
    words += [f"waiting for data {100 * measured['data_wait']:.1f} % of the time"]
    words += [f"{measured['memory_peak_mib']:,.0f} MiB of memory"] if "memory_peak_mib" in measured else []
    return [("speed", ", ".join(words))]


def kept_versions(run: RunFolder) -> list[tuple[str, str]]:
    """The best and the last version, how many there are and what packing saves, as their seals tell; nothing of a run without any."""
    versions = list_versions(run.checkpoints)
    best = best_versions(versions, BEST_METRIC)[:1]
    last = sorted((version for version in versions if version.resumable), key=lambda version: (version.step, version.number))[-1:]
    rows = [(f"{which} checkpoint", shown(version.path)) for which, found in (("best", best), ("last", last)) for version in found]
    vetoed = [version for version in versions if version.vetoed]
    rows += [("never best", f"{len(vetoed):,} of the versions; {vetoed[-1].name}: {vetoed[-1].vetoed}")] if vetoed else []
    return [*rows, ("versions", footing(versions))] if versions else rows
