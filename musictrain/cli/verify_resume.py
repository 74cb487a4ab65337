"""``verify-resume``: train without interruption, train with one, and compare the two to the bit, on the user's own configuration."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from musictrain.checkpoints.catalog import last_good, list_versions
from musictrain.cli.exits import FAILED, FINISHED, TERMINATED, WRONG_USAGE, CommandError, UsageError
from musictrain.cli.options import CommandParser, positive
from musictrain.cli.recipes import with_recipes
from musictrain.runs import RunFolder, list_runs

if TYPE_CHECKING:
    from musictrain.checkpoints.comparing import Difference

# When and where it was trained, which two runs never share.
NOT_COMPARED = (
    "['musictrain_circumstances']",
    "['callbacks']['Timer']",
    "['callbacks']['RunRecorder']",
    "['callbacks']['PlainProgress']",
    "['callbacks']['ProgressLine']",
    "['callbacks']['AnomalyAlerts']['machine']",
    "['musictrain_training_sums']['seconds']",
    "['musictrain_logged']",
)
MOST_SHOWN = 3
CAUSES = """\
Likely causes, the first first:
  - random numbers that are not torch's, such as random or numpy.random in the module, or in a data set with workers
  - a data module or loader that does not keep its position: let it have state_dict and load_state_dict, or use MusicDataModule
  - something that training depends on and that no state_dict holds: a plain attribute of the module or of a callback
  - an operation whose result changes from run to run on this device: see trainer.deterministic"""


def run(command: str, arguments: list[str]) -> int:
    """Do it; 0 if a resume is exact, 1 if it is not.

    Raises:
        UsageError: for wrong options, or a configuration that saves no versions.
        CommandError: if one of the trainings fails.
    """
    options, words = parser().parse_known_args(arguments)
    at = options.at if options.at is not None else max(1, options.steps // 2)
    if not 0 < at < options.steps:
        raise UsageError(f"--at {at}: the interruption must come after the first step and before the last, {options.steps}.")
    if "--config" not in words and not any(word.startswith("--config=") for word in words):
        raise UsageError("verify-resume needs a configuration: musictrain verify-resume --config NAME-or-FILE.")
    words = [*with_recipes(words), *short_run(options.steps, at)]
    with folder(options.keep) as place:
        whole = trained(words, place / "whole", "without interruption", options.steps)
        parted = trained(words, place / "parted", f"until a SIGTERM after {at}", options.steps, stop_after=at)
        check_stopped(parted, options.steps)
        parted = trained(words, parted.path.parent, "resumed in a new process", options.steps, run=parted)
        return compare(whole, parted, options.steps, at)


def parser() -> CommandParser:
    """The options of ``verify-resume``; everything else is passed on to ``fit``."""
    parser = CommandParser(
        "verify-resume", "Prove that a resume is exact: train for some steps, once in one go and once with an interruption, and compare."
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "--config NAME-or-FILE is needed, and every other option of `musictrain fit` can be added."
    parser.add_argument("--steps", type=positive, default=8, metavar="N", help="optimizer steps of both trainings (8)")
    parser.add_argument("--at", type=int, metavar="K", help="interrupt after this step (half of them)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the two runs there, instead of in a temporary folder")
    return parser


def short_run(steps: int, at: int) -> list[str]:
    """Options of ``fit`` that make a run so short that it still validates before and after the interruption."""
    every = max(1, at - 1)
    # The user's loggers, such as one on the web, are not told of a rehearsal.
    limits = {"max_steps": steps, "max_epochs": -1, "val_check_interval": every, "limit_val_batches": 2, "logger": "false"}
    return [word for name, value in limits.items() for word in (f"--trainer.{name}", str(value))] + [
        "--trainer.check_val_every_n_epoch",
        "null",
    ]


@contextmanager
def folder(keep: Path | None) -> Iterator[Path]:
    """Where the runs are kept: for good, or for the time being."""
    if keep is not None:
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="verify-resume-") as name:
        yield Path(name)


def trained(words: list[str], runs: Path, what: str, steps: int, *, stop_after: int = 0, run: RunFolder | None = None) -> RunFolder:
    """Train in a process of its own, which is what an interruption leaves; gives back the run.

    Raises:
        CommandError: if the training fails, with what it said.
    """
    print(f"{steps} steps {what} ...", end=" ", flush=True)
    began = time.monotonic()
    code = "import sys; from musictrain.cli.verify_resume import train_part; sys.exit(train_part(sys.argv[1:]))"
    given = [str(stop_after), str(run.path) if run is not None else "", *words, "--runs", str(runs)]
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True)
    print(f"{time.monotonic() - began:.0f} s", flush=True)
    if done.returncode != (TERMINATED if stop_after else FINISHED):
        raise CommandError(f"The training {what} failed with exit status {done.returncode}: {last_words(done.stderr or done.stdout)}")
    found = list_runs(runs)
    if not found:
        raise CommandError(f"The training {what} left no run behind.")
    return found[-1]


def check_stopped(run: RunFolder, steps: int) -> None:
    """Refuse to compare where there was no interruption.

    Raises:
        CommandError: if the training did all its steps.
    """
    version = last_good(run.checkpoints)
    if version is not None and version.step >= steps:
        raise CommandError(
            f"All {steps} steps were done before the SIGTERM was obeyed: several processes agree on a signal about once a second. "
            f"Take more steps: --steps {10 * steps}"
        )


def last_words(text: str) -> str:
    """The error a program ended with, or else its last line."""
    lines = [line for line in text.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("error:")), lines[-1] if lines else "it said nothing").removeprefix("error: ")


def train_part(given: list[str]) -> int:
    """One of the trainings, in its own process: stop after which step, in which run folder, and the words of ``fit``."""
    from musictrain.cli.training import train
    from musictrain.cli.verify_resume_callback import Interrupt

    stop_after, place, *words = given
    run = RunFolder(Path(place)) if place else None
    if run is not None:
        version = last_good(run.checkpoints)
        words += ["--ckpt_path", str(version.path)] if version is not None else []
    try:
        return train("fit", words, folder=run.path if run is not None else None, callbacks=[Interrupt(int(stop_after))])
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USAGE


def compare(whole: RunFolder, parted: RunFolder, steps: int, at: int = 0) -> int:
    """Compare the last versions of two runs, one of them interrupted after ``at``, and say what came of it; 0 if they are the same.

    Raises:
        UsageError: if the runs saved no versions.
    """
    from musictrain.checkpoints.comparing import differences
    from musictrain.checkpoints.snapshot import tensors
    from musictrain.checkpoints.storing import load

    versions = [last_good(run.checkpoints) for run in (whole, parted)]
    if versions[0] is None or versions[1] is None:
        raise UsageError(
            "This configuration saves no versions: leave its own checkpoint callback out, or take musictrain's VersionedCheckpoint."
        )
    one, other = load(versions[0].path), load(versions[1].path)
    found = list(differences(one, other, NOT_COMPARED))
    if not found:
        print(f"Exact: all {sum(1 for _ in tensors(one)):,} tensors and everything else are the same to the bit after {steps} steps.")
        return FINISHED
    print("\n".join(told(found, differs_before(whole, parted, at))))
    return FAILED


def differs_before(whole: RunFolder, parted: RunFolder, at: int) -> int | None:
    """The first step before ``at`` after which both runs have saved, and not the same; None if there is none."""
    from musictrain.checkpoints.comparing import first_difference
    from musictrain.checkpoints.storing import load

    ours, theirs = (
        {(version.step, version.seal.reason): version.path for version in list_versions(run.checkpoints) if version.seal is not None}
        for run in (whole, parted)
    )
    common = sorted(key for key in ours if key in theirs and key[0] < at)
    return next((key[0] for key in common if first_difference(load(ours[key]), load(theirs[key]), NOT_COMPARED)), None)


def told(found: list[Difference], before: int | None = None) -> list[str]:
    """The first differences, whether they came before the interruption, and what may be the cause."""
    lines = [f"Not exact. The first thing that differs is {found[0]}.", *(f"  also {each}" for each in found[1:MOST_SHOWN])]
    if len(found) > MOST_SHOWN:
        lines.append(f"  and {len(found) - MOST_SHOWN:,} other places")
    if before is not None:
        lines.append(f"The two differ already after step {before}, before the interruption: without one they would not be the same either.")
    return [*lines, CAUSES]
