"""A fit by the command line scores its samples; the page finds scores and bands; the next run measures the corpus no more."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from musictrain.dashboard.page_data import PageData
from musictrain.metrics import MEASURES
from musictrain.runs import RunFolder
from musictrain.runs.rows import read_rows
from musictrain.sampling.corpus_reference import CorpusReference
from tests.cli.tiny import tiny_config, type_command, write_config, write_corpus

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]
SMALL = {"num": 1, "num_scored": 3, "continuations": 1, "beats": 8, "beats_between": 8, "min_beats": 4, "prompt_beats": 2}


def fit(folder: Path, capsys: Any) -> RunFolder:
    config = tiny_config(write_corpus(folder / "corpus.json"))
    config["trainer"]["callbacks"] = [
        {"class_path": "musictrain.callbacks.SampleAndScore", "init_args": {**SMALL, "most_share": 1}},
        {"class_path": "musictrain.callbacks.MusicalEarlyStopping", "init_args": {"watch": ["val/loss"], "guards": ["copying"]}},
    ]
    status, _, complaints = type_command(capsys, "fit", "--config", write_config(folder / "c.yaml", config), "--runs", folder / "runs")
    assert status == 0, complaints
    return RunFolder(max(path for path in (folder / "runs").iterdir() if path.is_dir()))


def test_scores_reach_the_page_and_the_corpus_is_measured_once(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MUSICTRAIN_CACHE", str(tmp_path / "cache"))
    run = fit(tmp_path, capsys)
    scored = [row for row in read_rows(run.metrics) if "val/in_band" in row]
    assert [row["step"] for row in scored] == [3, 6]
    assert (run.samples_at(3) / "scores.json").is_file()
    page = PageData(run).read()
    assert {f"val/{name}" for name in MEASURES} <= {key for key, _, _ in page["bands"]}
    assert {*MEASURES, "copy_rate", "token_validity"} <= {chart["name"] for chart in page["charts"] if chart["section"] == "music"}
    (kept,) = (tmp_path / "cache" / "references").iterdir()
    assert CorpusReference.load(kept).num_pieces == 2

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the corpus was measured again")

    monkeypatch.setattr(CorpusReference, "build", never)
    with caplog.at_level(logging.WARNING):
        again = fit(tmp_path, capsys)
    bands = [json.loads((each.path / "corpus_bands.json").read_text(encoding="utf-8")) for each in (run, again)]
    assert bands[0] == bands[1]
    assert again != run
