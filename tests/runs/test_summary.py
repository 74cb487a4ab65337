"""The summary tells what there is, and nothing of what there is not."""

from __future__ import annotations

from pathlib import Path

from musictrain.runs import Records, RunFolder
from musictrain.runs.summary import shown, summary

NAME = "2025-01-03_100000-chorales-warm-canon"


def run_with(tmp_path: Path, *rows: dict[str, float]) -> RunFolder:
    run = RunFolder(tmp_path / NAME)
    run.checkpoints.mkdir(parents=True)
    records = Records(run.metrics)
    for row in rows:
        records.append(row)
    records.close()
    return run


def test_everything_there_is_is_told(tmp_path: Path) -> None:
    scores = {"val/loss": 0.41234, "val/nats_per_note": 0.5, "val/bits_per_beat": 3.25}
    run = run_with(tmp_path, {"step": 100, **scores}, {"step": 200, "val/loss": 0.5})
    for name in ("a.wav", "a.mid", "b.wav"):
        run.samples_at(200).mkdir(parents=True, exist_ok=True)
        (run.samples_at(200) / name).touch()
    lines = summary(run, command="python -m musictrain", runs_dir=tmp_path, facts=[("best checkpoint", f"{tmp_path}/v1.ckpt")]).splitlines()
    assert lines == [
        f"  run              {run.path}",
        "  best val/loss    0.4123 nats per token at step 100 (0.5000 nats per note, 3.2500 bits per beat)",
        f"  best checkpoint  {tmp_path / 'v1.ckpt'}",
        f"  samples          {run.samples_at(200)} (2 pieces: .wav and .mid to hear, .png to see)",
        f"  listen to        {run.samples_at(200) / 'a.wav'}",
        f"  look at          {run.samples_at(200) / 'a.png'}",
        "Next",
        f"  more music  python -m musictrain sample warm-canon --n 8 --runs {tmp_path}",
        f"  go on       python -m musictrain resume warm-canon --trainer.max_steps 400 --runs {tmp_path}",
    ]


def test_a_run_that_has_recorded_nothing_has_a_short_one(tmp_path: Path) -> None:
    assert summary(run_with(tmp_path)).splitlines() == [
        f"  run  {tmp_path / NAME}",
        "Next",
        "  more music  musictrain sample warm-canon --n 8",
        "  go on       musictrain resume warm-canon --trainer.max_steps 1",
    ]


def test_steps_are_counted_by_the_events_too(tmp_path: Path) -> None:
    run = run_with(tmp_path, {"step": 10})
    Records(run.events).append({"event": "finished", "step": 14})
    assert run.last_step() == 14


def test_paths_are_as_short_as_they_can_be_typed(tmp_path: Path) -> None:
    assert shown(Path.cwd() / "runs" / "x") == "runs/x"
    assert shown(tmp_path) == str(tmp_path)
