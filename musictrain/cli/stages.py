"""``stages``: several trainings, one after the other, as one: begun, interrupted and gone on with by one command."""

from __future__ import annotations

import argparse
import json
from typing import Any

import yaml

from musictrain.checkpoints.lock import FolderInUseError, FolderLock
from musictrain.cli.exits import FINISHED, CommandError
from musictrain.cli.options import CommandParser
from musictrain.cli.stages_loading import Loaded, load_protocol, state_of
from musictrain.cli.stages_telling import plan_lines
from musictrain.runs.records import plain
from musictrain.runs.secrets import hidden_config, remember_config
from musictrain.stages.state import State


def run(command: str, arguments: list[str]) -> int:
    """Train what is left of a protocol; gives back the exit status, as that of ``fit``.

    Raises:
        UsageError: if it cannot work, before anything is trained.
        CommandError: if another process is at work on it.
    """
    options = parser().parse_args(arguments)
    loaded = load_protocol(options)
    for stage in loaded.stages.values():
        remember_config(dict(stage.config))
    state = state_of(loaded, options.start)
    if options.json or options.dry_run:
        print(json.dumps(plain(as_json(loaded, state)), indent=1) if options.json else "\n".join(plan_text(loaded, state)))
        return FINISHED
    if options.check:
        from musictrain.cli.stages_checking import check_configurations

        return check_configurations(loaded, state)
    return drive(loaded, options)


def parser() -> CommandParser:
    """The options."""
    parser = CommandParser("stages", "Train several stages as one: the same command goes on wherever it was interrupted.")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("--config", required=True, metavar="FILE", help="the protocol: a YAML file, or the name of a shipped one")
    parser.add_argument("--name", metavar="NAME", help="what its folder is called, beside its runs; the protocol's own name if left out")
    parser.add_argument("--from", dest="start", metavar="STAGE", help="begin anew from this stage; the runs that are replaced are kept")
    parser.add_argument("--dry-run", action="store_true", help="show the plan, every configuration, and what is done; train nothing")
    parser.add_argument("--check", action="store_true", help="ask fit whether it can read every configuration; train nothing")
    parser.add_argument("--json", action="store_true", help="plan, configurations and what is done, for programs; train nothing")
    return parser


EPILOG = """\
A protocol:
  name: folk-to-chorales
  config: {trainer: {accelerator: auto}}     keys of all stages
  stages:
    - name: folk
      extends: folk                          a recipe, a file, an earlier stage, or a list of them, in layers
      config: {seed_everything: 3}           keys laid over that; callbacks+: [...] adds to a list
      budget: {steps: 400}                   also minutes: 30, stop: {watch: val/loss, patience: 5}; the first one reached ends it
    - name: chorales
      extends: chorales
      budget: {steps: 900}
      hand_over: {from: folk, version: best, optimizer: false, vocabulary: extend}
                                             version: best, last or average (of: 5); vocabulary: same or extend (tokens by name);
                                             hand_over: nothing begins anew; left out: the best weights of the stage before
      go_on: true                            also where a guard has stopped this stage

stage:NAME@best (or @last) anywhere in a configuration is that version of an earlier stage, such as the teacher of a student.
"""


def drive(loaded: Loaded, options: argparse.Namespace) -> int:
    """Hold the protocol's folder, and train.

    Raises:
        CommandError: if somebody else holds it, or it cannot be written.
    """
    from musictrain.cli.stages_driving import Driver

    try:
        loaded.folder.path.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(loaded.folder.path)
        lock.acquire()
    except FolderInUseError as error:
        raise CommandError(
            f"Somebody else is at work on the protocol {loaded.protocol.name!r}. {str(error).partition(': ')[0]}."
        ) from error
    except OSError as error:
        raise CommandError(f"{loaded.folder.path} cannot be written: {error.strerror or error}") from error
    try:
        # What is done is looked at again, now that nobody else can change it.
        return Driver(loaded, state_of(loaded, options.start)).run()
    finally:
        lock.release()


def plan_text(loaded: Loaded, state: State) -> list[str]:
    """The plan, then the configuration of each stage as ``fit`` is given it."""
    lines = [f"protocol  {loaded.protocol.name}, in {loaded.folder.path}", *(f"  {line}" for line in plan_lines(loaded, state))]
    lines += [f"replaced  {record.stage}: {record.run}" for record in state.replaced]
    for name, stage in loaded.stages.items():
        config = yaml.safe_dump(hidden_config(dict(stage.config)), sort_keys=False, allow_unicode=True)
        lines += ["", f"# {name}", config.rstrip()]
    return lines


def as_json(loaded: Loaded, state: State) -> dict[str, Any]:
    """The same for programs."""
    stages = []
    for name, resolved in loaded.stages.items():
        record = state.record(name)
        facts = {"state": "to come"} if record is None else {"state": record.state, "run": record.run, "started_from": record.started_from}
        stages.append({"name": name, **facts, "budget": resolved.stage.budget.words(), **resolved.told()})
    replaced = [{"stage": record.stage, "run": record.run} for record in state.replaced]
    return {"protocol": loaded.protocol.name, "folder": str(loaded.folder.path), "stages": stages, "replaced": replaced}
