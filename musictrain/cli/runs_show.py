"""``runs show``: everything about one run, and what to do next."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from musictrain.checkpoints.catalog import Version, best_versions, list_versions
from musictrain.cli.exits import FINISHED, CommandError
from musictrain.cli.options import default_runs_dir
from musictrain.cli.runs_compare import metrics_of, of_interest
from musictrain.cli.runs_gathered import show_gathered
from musictrain.cli.runs_list import as_record, finite
from musictrain.cli.runs_texts import duration, figure, in_colour, inert, moment, progress, table
from musictrain.dashboard.settings import read_config
from musictrain.runs import find_run
from musictrain.runs.folder import BEST_METRIC, RunFolder
from musictrain.runs.index import RunIndex
from musictrain.runs.lineage import parents_of
from musictrain.runs.rollbacks import FILE_NAME as ROLLBACKS
from musictrain.runs.rollbacks import read_rollbacks
from musictrain.runs.status import ACTIVE, ENDED, STALE
from musictrain.runs.summary import shown

Facts = list[tuple[str, str]]

MOST_GENERATIONS = 6
MOST_CHILDREN = 12
MOST_TURNS = 6
PAGES = ("dashboard.html", "report.html", "curves.png", "config.yaml", "train.log", "data_report.md")


def show_command(options: argparse.Namespace, index: RunIndex) -> int:
    """One run in full; of a search or a protocol of stages what its runs came to."""
    if (status := show_gathered(options)) is not None:
        return status
    run = find_run(options.run, options.runs)
    if index.holds(run):
        return _show(options, index, run)
    with RunIndex(run.path.parent, read_config) as other:  # a run of another folder, named by its path
        other.refresh([run.name])
        return _show(options, other, run)


def _show(options: argparse.Namespace, index: RunIndex, run: RunFolder) -> int:
    row = next(iter(index.select("SELECT * FROM runs WHERE name = ?", (run.name,))), None)
    if row is None:
        raise CommandError(f"{run.path} could not be read into the index; what is wrong was said above.")
    tags = [each["tag"] for each in index.select("SELECT tag FROM tags WHERE run = ? ORDER BY tag", (run.name,))]
    record = as_record(row, tags)
    metrics = {key: each[0] for key, each in metrics_of(index, [run]).items()}
    versions = list_versions(run.checkpoints)
    if options.json:
        print(json.dumps(as_json(index, run, record, metrics, versions), indent=1))
        return FINISHED
    facts = [*standing(record), *turns(run), *attention(record), *about(record), *descent(index, run), *stored(run, versions)]
    lines = [f"{inert(run.name)}  {in_colour(record['state'] or '', record['state'] or '')}", *labelled(facts)]
    of_interest_here, left_out = of_interest(metrics, everything=options.all)
    lines += ["", *metric_lines(of_interest_here), *left_out] if metrics else []
    print("\n".join([*lines, "", "Next", *labelled(next_commands(run, record, versions))]))
    return FINISHED


def as_json(index: RunIndex, run: RunFolder, record: dict[str, Any], metrics: Any, versions: Sequence[Version]) -> dict[str, Any]:
    """Everything, for programs."""
    config = index.select("SELECT key, value FROM config WHERE run = ?", (run.name,))
    return {
        **record,
        "metrics": metrics,
        "config": {each["key"]: finite(each["value"]) for each in config},
        "parents": [vars(parent) for parent in parents_of(run)],
        "children": index.children_of(run.name),
        "versions": [version.name for version in versions],
        "rollbacks": [asdict(rollback) for rollback in read_rollbacks(run.path / ROLLBACKS)],
        "files": [path.name for path in sorted(run.path.iterdir())],
    }


def standing(record: dict[str, Any]) -> Facts:
    """How far it is, how long it took and takes, and its best value."""
    attempt = f", attempt {record['attempt']}" if (record["attempt"] or 1) > 1 else ""
    active = record["state"] in ACTIVE
    left = f"{duration(record['left_seconds'])}" if active else ""
    ends = f", until {moment(record['updated'] + record['left_seconds'])}" if left else ""
    best, step = record["best"], record["best"]["step"]
    at = f" at step {step:,}" if step is not None else ""
    return [
        ("why", inert(record["reason"] or "")),
        ("advice", inert(record["advice"] or "")),
        ("progress", f"{progress(record['step'], record['total'])}{attempt}"),
        ("time left", f"{left}{ends}"),
        ("elapsed", duration(record["elapsed_seconds"] or None)),
        ("started", moment(record["created"]) + (f", ended {moment(record['ended'])}" if record["ended"] else "")),
        ("last heard of", moment(record["updated"], "%Y-%m-%d %H:%M:%S") if record["state"] == STALE else ""),
        ("speed", f"{record['tokens_per_second']:,.0f} tokens/s" if record["tokens_per_second"] else ""),
        ("best", f"{inert(best['metric'])} {figure(best['value'])}{at}" if best["value"] is not None else ""),
    ]


def turns(run: RunFolder) -> Facts:
    """How often it has gone back, and the batches that it has passed over since."""
    backs = read_rollbacks(run.path / ROLLBACKS)
    if not backs:
        return []
    often, last = "once" if len(backs) == 1 else f"{len(backs):,} times, at last", backs[-1]
    over = [back.passed_over for back in backs if back.passed_over]
    more = f" and more, see {ROLLBACKS}" if len(over) > MOST_TURNS else ""
    passes = f"; passes over {', '.join(over[:MOST_TURNS])}{more}" if over else ""
    return [("went back", f"{often} from step {last.step:,} to step {last.to:,}{passes}")]


def attention(record: dict[str, Any]) -> Facts:
    """The last alert with its advice."""
    alert = record["last_alert"] if isinstance(record["last_alert"], dict) else {}
    more = f" ({record['num_alerts']:,} in all)" if (record["num_alerts"] or 0) > 1 else ""
    return [
        ("alert", f"{inert(alert.get('message') or alert.get('kind') or '')}{more}" if alert else ""),
        ("", inert(alert.get("advice") or "") and f"-> {inert(alert['advice'])}"),
    ]


def about(record: dict[str, Any]) -> Facts:
    """What is trained on what, and what people said of it."""
    parameters = f", {record['parameters']:,} parameters" if record["parameters"] else ""
    what = [inert(record[key]) for key in ("corpus", "tokenizer") if record[key]]
    return [
        ("model", f"{inert(record['model'] or '')}{parameters}".strip(", ")),
        ("data", ", ".join(what)),
        ("host", inert(record["host"] or "")),
        ("tags", inert(", ".join(record["tags"]))),
        ("note", inert(record["note"] or "")),
        ("archived", "yes" if record["archived"] else ""),
    ]


def descent(index: RunIndex, run: RunFolder) -> Facts:
    """Where it came from, back to the first, and what came from it."""
    lines: list[str] = []
    _ancestors(index, run.name, [(each.relation, each.run, each.sentence()) for each in parents_of(run)], 0, {run.name}, lines)
    children = index.children_of(run.name)
    lines += [f"<- {inert(child['run'])} is {inert(child['relation'])} this" for child in children[:MOST_CHILDREN]]
    lines += [f"   and {len(children) - MOST_CHILDREN:,} more"] if len(children) > MOST_CHILDREN else []
    return [("descent" if number == 0 else "", line) for number, line in enumerate(lines)]


def _ancestors(index: RunIndex, name: str, parents: Sequence[tuple[str, str, str]], depth: int, seen: set[str], lines: list[str]) -> None:
    for _, parent, sentence in parents:
        again = parent in seen
        lines.append(f"{'   ' * depth}{inert(sentence)}{' (see above)' if again else ''}")
        if again or depth + 1 >= MOST_GENERATIONS:
            continue
        seen.add(parent)
        rows = index.select("SELECT relation, parent, version, step FROM lineage WHERE run = ?", (parent,))
        further = [(row["relation"], row["parent"], f"which was {row['relation']} {row['parent']}") for row in rows]
        _ancestors(index, parent, further, depth + 1, seen, lines)


def stored(run: RunFolder, versions: Sequence[Version]) -> Facts:
    """Checkpoints and files."""
    resumable = [version for version in versions if version.resumable]
    last = max(resumable, key=lambda version: (version.step, version.number), default=None)
    best = best_versions(list(versions), BEST_METRIC)[:1]
    words = [f"{len(versions):,}"] if versions else []
    words += [f"last {last.name}"] if last is not None else []
    words += [f"best {best[0].name}"] if best else []
    samples = sorted(path.name for path in run.samples.glob("step_*"))
    return [
        ("versions", ", ".join(words)),
        ("samples", f"{len(samples):,}, last {inert(samples[-1])}" if samples else ""),
        ("folder", inert(shown(run.path.resolve()))),
        ("files", ", ".join(name for name in PAGES if (run.path / name).exists())),
    ]


def metric_lines(metrics: dict[str, Any]) -> list[str]:
    """Last, lowest and highest value of each metric."""
    rows = [(inert(key), *(_at(each, what) for what in ("last", "min", "max"))) for key, each in metrics.items()]
    return table(("metric", "last", "lowest", "highest"), rows, (False, True, True, True))


def _at(extent: dict[str, Any], what: str) -> str:
    return "" if extent[what] is None else f"{figure(extent[what])} @ {extent[f'{what}_step']:,}"


def next_commands(run: RunFolder, record: dict[str, Any], versions: Sequence[Version]) -> Facts:
    """What to type next, by the state of the run."""
    name = "-".join(run.name.split("-")[-2:])
    where = "" if run.path.parent.resolve() == default_runs_dir().resolve() else f" --runs {shown(run.path.parent.resolve())}"
    facts: Facts = []
    if record["state"] in ACTIVE:
        facts.append(("watch it", f"musictrain watch {name}{where}"))
    elif record["state"] in (*ENDED, STALE) and record["state"] != "finished":
        facts.append(("go on", f"musictrain resume {name}{where}"))
    else:
        steps = 2 * max(record["step"] or 0, record["total"] or 0, 1)
        facts.append(("go on", f"musictrain resume {name} --trainer.max_steps {steps}{where}"))
    if versions:
        facts.append(("more music", f"musictrain sample {name} --n 8{where}"))
        facts.append(("versions", f"musictrain checkpoints list {name}{where}"))
    return [(label, inert(command)) for label, command in facts]


def labelled(facts: Facts) -> list[str]:
    """Lines of a label and what it is; empty ones are left out."""
    told = [(label, text) for label, text in facts if text]
    width = max((len(label) for label, _ in told), default=0)
    return [f"  {label:<{width}}  {text}" for label, text in told]
