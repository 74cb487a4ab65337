"""Music stops a run: real fits of Bach's chorales through the command line, kept as numbers and checked against the notes.

- ``copying``: four chorales, no dropout, no transposition: the copy guard ends the run while its training loss still falls. The passage
  that it names is compared with the chorale, eighth by eighth, and its bars with the measure numbers that music21 reads.
- ``collapse``: the same on a grid of sixteenths, where nearly every note is held, sampled without the last tenth of the probability: the
  samples of the lowest loss are one held chord (which is how a loop of one chord comes out of a tokenizer that ties repeated notes), and
  that version is not called best.
- ``loop``: fiddle tunes, always the likeliest token: the same bars over and over, from the first validation to the last, while the loss
  falls. No version of it is called best.
- ``two_processes``: the run of ``copying`` on two processes (DDP, gloo).
- ``killed``: the same run killed by ``kill -9`` at several places, once each, and resumed.
- ``false_alarms``: see ``benchmarks.guard_alarms``.
- ``healthy``: see ``benchmarks.healthy_versions``, for runs of ``fit --config chorales`` that were given.

    python -m benchmarks.musical_stopping [part ...] [--healthy RUN ...] [--keep FOLDER]

Parts that are not named stay in ``results/musical_stopping.json`` as they were measured; runs that are kept are not trained again.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import guard_alarms, healthy_versions
from benchmarks.results_file import RESULTS, write_result
from benchmarks.stopping_runs import Ended, KillAt, TellEnd, fit, recipe, resume, with_callback, write_few_chorales
from musictrain.checkpoints.catalog import list_versions
from musictrain.data import read_notes
from musictrain.data.tokenizers import VoiceGrid
from musictrain.metrics.copying_index import as_tokens_hold
from musictrain.notes import Notes
from musictrain.runs.records import read_records
from musictrain.stopping import GUARDS

NAME = "musical_stopping"
LENGTHS = ("beats", "beats_between", "min_beats")
STEPS_PER_BEAT = 2  # of the tokenizer of these runs
# Only a guard can stop it. Not by the grammar: after so few steps on so few pieces it would veto every version.
PATIENT = {"watch": [{"metric": "val/loss", "patience": 99}], "guards": ["collapse", "copying", "standstill"]}
WATCHED = ("train/loss", "val/loss", *(str(guard.metric) for guard in GUARDS.values()), "val/longest_match")
KILLS = {
    "before the first validation": (5, "training"),
    "between two validations": (25, "training"),
    "after the deciding validation, before its version is saved": (0, "validation"),
    "after the deciding validation, its version saved": (0, "end"),
}


# Copying.


def copying(folder: Path, corpus: Path) -> dict[str, Any]:
    """The run that copies, and whether what it says of it is true."""
    return told_of_copying(fit(copying_config(corpus), folder, "copying"), corpus)


def copying_config(corpus: Path, **trainer: Any) -> dict[str, Any]:
    """A run that will learn its pieces by heart; only guards may end it."""
    return recipe(corpus, {}, PATIENT, **trainer)


def told_of_copying(ended: Ended, corpus: Path) -> dict[str, Any]:
    """How it ended, the course of its values, the passage, and where the passage is named."""
    step = ended.status.step
    passage = ended.scores(step)["copied"][0]
    losses = ended.values["train/loss"]
    return {
        **ended.decision(),
        "course": course(ended),
        "training_loss_still_falls": falls(losses),
        "validation_loss_lowest_at": min(ended.values["val/loss"], key=ended.values["val/loss"].__getitem__),
        "passage": passage["says"],
        "passage_is_right": passage_is_right(passage, ended.run.samples_at(step), corpus),
        "named_in": named_in(ended, passage["says"]),
    }


def course(ended: Ended) -> dict[str, dict[int, float]]:
    """What was logged at each validation."""
    at = ended.values["val/loss"]
    return {name: {step: round(ended.values[name][step], 4) for step in at if step in ended.values.get(name, {})} for name in WATCHED}


def falls(losses: dict[int, float]) -> bool:
    """Whether the last third of the logged values is, in the mean, below the third before, and the last is the lowest but for a tenth."""
    values = [losses[step] for step in sorted(losses)]
    third = max(1, len(values) // 3)
    return float(np.mean(values[-third:])) < float(np.mean(values[-2 * third : -third])) and values[-1] <= 1.1 * min(values)


def passage_is_right(passage: dict[str, Any], samples: Path, corpus: Path) -> dict[str, Any]:
    """The passage again from the written sample and the chorale: pitches that sound at each step, and the measures that it stands in."""
    sample = read_notes(samples / f"{passage['sample']}.mid")
    piece = as_tokens_hold(read_notes(corpus / f"{passage['source']}.mid"), VoiceGrid(lowest=36, highest=81, steps_per_beat=STEPS_PER_BEAT))
    steps = round(passage["beats"] * STEPS_PER_BEAT)
    ours = sounding(sample, passage["own_beat"], steps, -passage["semitones"])
    theirs = sounding(piece, passage["source_beat"], steps)
    measures = measures_of(Path(passage["source"]).name, passage["source_beat"], passage["beats"])
    return {
        "steps": steps,
        "steps_with_the_same_pitches": sum(one == other for one, other in zip(ours, theirs, strict=True)),
        "source_bars": list(passage["source_bars"]),
        "measures_of_music21": measures,
        "the_same": list(passage["source_bars"]) == measures,
    }


def sounding(notes: Notes, beat: float, steps: int, semitones: int = 0) -> list[frozenset[int]]:
    """The pitches that sound in the middle of each step from a beat on."""
    times = beat + (np.arange(steps) + 0.5) / STEPS_PER_BEAT
    on = (notes.onset[None] <= times[:, None]) & (times[:, None] < (notes.onset + notes.duration)[None])
    return [frozenset((notes.pitch[row] + semitones).tolist()) for row in on]


def measures_of(name: str, beat: float, beats: float) -> list[int]:
    """The first and the last measure of a passage by the numbers that music21 finds printed in the score, the first being 1."""
    from music21 import corpus as scores

    measures = list(scores.parse(f"bach/{name}").parts[0].getElementsByClass("Measure"))
    # Printed numbers begin with 0 at a pickup; a measure that a repeat cuts in two has one number.
    starts, first = [float(measure.offset) for measure in measures], measures[0].number
    return [measures[int(np.searchsorted(starts, at, side="right")) - 1].number + 1 - first for at in (beat, beat + beats - 1e-3)]


def named_in(ended: Ended, says: str) -> dict[str, bool]:
    """Where piece and bars are named: on the console, in status and events, in what the page draws, and in the report's file."""
    events = [record for record in read_records(ended.run.events) if record["event"] in ("stopped", "alert")]
    page = (ended.run.path / "dashboard_data.js").read_text(encoding="utf-8")
    return {
        "console": says in ended.printed,
        "status": says in ended.status.reason,
        "events": any(record["event"] == "stopped" and says in record["reason"] for record in events),
        "alert": any(says in str(record.get("message")) for record in events),
        "page": says in page,
    }


# Collapse.


def collapse_config(corpus: Path) -> dict[str, Any]:
    """The recipe's kind of network, tiny, on its grid of sixteenths, and a tenth of the probability cut off: what is held stays held."""
    config = recipe(corpus, {"top_p": 0.9}, PATIENT, max_steps=40)
    small = {"lowest": 36, "highest": 81, "embedding": 64, "hidden": 96, "head_hidden": 96}
    config["model"]["init_args"]["network"] = {"class_path": "musictrain.VoiceFrames", "init_args": small}
    config["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 0.002
    config["data"]["init_args"] |= {"window": 512, "align": 64}
    config["data"]["init_args"]["tokenizer"]["init_args"]["steps_per_beat"] = 4
    return config


def loop_config() -> dict[str, Any]:
    """A small decoder of a thousand tunes; it is not the training that fails here but how is sampled, as at too low a temperature."""
    config = recipe("ryans", {"top_k": 1, "num_scored": 1, "continuations": 4, **dict.fromkeys(LENGTHS, 64.0)}, PATIENT, max_steps=200)
    config["trainer"]["val_check_interval"] = 50
    network = config["model"]["init_args"]["network"]["init_args"]
    network |= {"d_model": 96, "num_heads": 4, "max_context": 1024}
    config["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 0.002
    remi = {"class_path": "musictrain.MidiTokTokenizer", "init_args": {"kind": "REMI"}}
    config["data"]["init_args"] |= {"tokenizer": remi, "window": 256, "batch_size": 8, "packing": True}
    return config


def fate_of_lowest(ended: Ended) -> dict[str, Any]:
    """Whether the version of the lowest loss was kept from being called best, and what for."""
    losses = ended.values["val/loss"]
    lowest = min(losses, key=losses.__getitem__)
    return {
        **ended.decision(),
        "course": course(ended),
        "lowest_loss_at": lowest,
        "lowest_loss_is_vetoed": lowest in ended.vetoed_steps,
        "vetoed_for": {version.step: version.vetoed for version in list_versions(ended.run.checkpoints) if version.vetoed},
        "best_loss_of_all": losses[lowest],
        "loss_of_best_version": losses.get(ended.best_step or -1),
    }


# Two processes, and kill -9.


def two_processes(folder: Path, corpus: Path) -> dict[str, Any]:
    """The run of ``copying`` on two processes; what each says of where it stopped."""
    config = with_callback(copying_config(corpus, devices=2, strategy="ddp"), TellEnd, folder=str(folder))
    ended = fit(config, folder, "two")
    ranks = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("rank_*.json"))}
    told = list(ranks.values())
    return {**ended.decision(), "ranks": ranks, "ranks_agree": len(told) == 2 and told[0] == told[1], "course": course(ended)}


def killed(folder: Path, corpus: Path, whole: dict[str, Any]) -> dict[str, Any]:
    """The run killed at each place and resumed, beside the run that nobody has touched."""
    return {place: killed_once(folder, corpus, whole, place) for place in KILLS}


def killed_once(folder: Path, corpus: Path, whole: dict[str, Any], place: str) -> dict[str, Any]:
    """One of them: how the killed and the resumed run ended, and whether that is how the whole one did."""
    step, when = KILLS[place]
    step = step or whole["stopped_at"]
    name = f"killed{list(KILLS).index(place)}"
    first = fit(with_callback(copying_config(corpus), KillAt, step=step, when=when), folder, name)
    after = resume(first.run)
    decision, expected = after.decision(), {key: whole[key] for key in after.decision()}
    return {
        "killed_at": step,
        "exit_status_of_the_killed": first.exit_status,
        "resumed": decision,
        "unchanged": decision == expected,
        "scores_unchanged": json.dumps(course(after)) == json.dumps(whole["course"]),
    }


# All of it.


def measure(parts: list[str], folder: Path, healthy: list[Path], before: dict[str, Any]) -> dict[str, Any]:
    """The parts that are asked for, the others as they were."""
    result = dict(before)
    corpus = folder / "few"
    if not corpus.exists():
        write_few_chorales(corpus)
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        "copying": lambda: copying(folder / "copying", corpus),
        "collapse": lambda: fate_of_lowest(fit(collapse_config(corpus), folder / "collapse", "collapse")),
        "loop": lambda: fate_of_lowest(fit(loop_config(), folder / "loop", "loop")),
        "two_processes": lambda: two_processes(folder / "two", corpus),
        "killed": lambda: killed(folder / "killed", corpus, result["copying"]),
        "false_alarms": guard_alarms.measure_all_corpora,
        "healthy": lambda: healthy_versions.measure(healthy),
    }
    for name in [*parts, *(["healthy"] if healthy else [])]:
        # As JSON has it, where steps are text: what is compared later is the same.
        result[name] = json.loads(json.dumps(runs[name]()))
    return result


def main() -> None:
    """Measure and write ``results/musical_stopping.json``."""
    parts = ["copying", "collapse", "loop", "two_processes", "killed", "false_alarms"]
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(parts)}; all of them")
    parser.add_argument("--healthy", type=Path, nargs="+", default=[], help="folders of runs of fit --config chorales")
    parser.add_argument("--keep", type=Path, help="where the runs stay, to be looked at")
    told = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    file = RESULTS / f"{NAME}.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    before.pop("machine", None)
    chosen = told.parts or ([] if told.healthy else parts)
    with tempfile.TemporaryDirectory() as temporary:
        folder = told.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write_result(NAME, measure(chosen, folder, told.healthy, before))


if __name__ == "__main__":
    main()
