"""What gathers several runs in a folder beside them, a search or a protocol of stages, as ``runs show`` tells it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from musictrain.cli.exits import FINISHED, UsageError
from musictrain.cli.runs_texts import figure, inert, table
from musictrain.dashboard.settings import read_config
from musictrain.runs import RunFolder
from musictrain.runs.status import read_status
from musictrain.runs.summary import shown
from musictrain.search.folder import SearchFolder
from musictrain.stages.folder import ProtocolFolder
from musictrain.stages.protocol import ProtocolError
from musictrain.stages.state import BEGUN, Record, State, read_state

TO_COME = "to come"


def show_gathered(options: argparse.Namespace) -> int | None:
    """Show a search or a protocol of that very name; None if it is neither, or a run.

    Raises:
        UsageError: if its files cannot be read.
    """
    for path in (Path(options.runs) / options.run, Path(options.run)):
        if RunFolder(path).is_run():
            return None
        if SearchFolder(path).is_search():
            return _show_search(path, as_json=options.json)
        if ProtocolFolder(path).protocol.is_file():
            return _show_protocol(ProtocolFolder(path), as_json=options.json)
    return None


def _show_search(path: Path, *, as_json: bool) -> int:
    from musictrain.cli.search_showing import show_search

    if not as_json:
        print(f"{inert(path.name)} is a search; its trials are runs. The same: musictrain search --show {inert(path.name)}")
    return show_search(str(path), path.parent, as_json=as_json)


def _show_protocol(folder: ProtocolFolder, *, as_json: bool) -> int:
    try:
        state = read_state(folder.state)
    except ProtocolError as error:
        raise UsageError(str(error)) from error
    stages = [stage_of(folder, name, state.record(name)) for name in names_in(folder, state)]
    if as_json:
        replaced = [{"stage": record.stage, "run": record.run} for record in state.replaced]
        print(json.dumps({"protocol": folder.name, "folder": str(folder.path), "stages": stages, "replaced": replaced}, indent=1))
        return FINISHED
    print("\n".join(protocol_lines(folder, stages, state)))
    return FINISHED


def names_in(folder: ProtocolFolder, state: State) -> list[str]:
    """The stages as the protocol was read last; of one that cannot be read, those that have begun."""
    told = read_config(folder.protocol)
    stages = told.get("stages") if isinstance(told, dict) else None
    names = [str(each["name"]) for each in stages or () if isinstance(each, dict) and "name" in each]
    return list(dict.fromkeys([*names, *(record.stage for record in state.records)]))


def stage_of(folder: ProtocolFolder, name: str, record: Record | None) -> dict[str, Any]:
    """What a stage has come to, in plain values."""
    if record is None:
        return {"name": name, "state": TO_COME}
    status = read_status(folder.run(record.run).status)
    state = record.state if record.state != BEGUN or status is None else status.shown_state()
    told = {"name": name, "state": state, "run": record.run, "started_from": record.started_from, "reason": record.reason}
    return told if status is None else {**told, "step": status.step, "total": status.total, "best": dict(status.best) or None}


def protocol_lines(folder: ProtocolFolder, stages: list[dict[str, Any]], state: State) -> list[str]:
    """For people: the stages in their order, and what others have replaced."""
    rows = []
    for stage in stages:
        best = stage.get("best") or {}
        value = f"{inert(best['metric'])} {figure(best['value'])}" if best else ""
        rows.append((inert(stage["name"]), stage["state"], figure(stage.get("step") or None), value, inert(stage.get("run", ""))))
    lines = [f"{inert(folder.name)} is a protocol of {len(stages)} stage{'' if len(stages) == 1 else 's'}, each of which is a run."]
    lines += table(("stage", "state", "step", "best", "run"), rows, (False, False, True, False, False), 1)
    lines += [f"  replaced  {inert(record.stage)}: {inert(record.run)}" for record in state.replaced]
    return [*lines, *([f"  page      {shown(folder.page)}"] if folder.page.is_file() else [])]
