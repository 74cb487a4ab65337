"""What the guards say of a run that nothing is wrong with: its versions sampled and scored as ``SampleAndScore`` does it in the run.

Beside the scores it is measured what a round costs in seconds of the processor, and what a step of the training does, so that the share of
the time that scoring would take does not depend on how busy the machine is.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch

from musictrain import MusicDataModule
from musictrain.checkpoints.catalog import list_versions
from musictrain.cli.trained_run import TrainedRun, load_trained_run
from musictrain.generation import sample_pieces
from musictrain.generation.continuation import first_beats
from musictrain.generation.length import least_tokens_for_beats, tokens_for_beats
from musictrain.metrics.intervals import bootstrap_interval
from musictrain.runs import RunFolder
from musictrain.sampling.corpus_reference import CorpusReference, reference_of
from musictrain.sampling.legality import legal_probabilities
from musictrain.sampling.rounds import validation_pieces
from musictrain.sampling.scores import Sample, score_samples
from musictrain.stopping import GUARDS

BEATS, LEAST_BEATS, TOP_P, PIECES_FOR_VALIDITY = 32.0, 16.0, 0.95, 4
KEPT = (*(guard.metric.removeprefix("val/") for guard in GUARDS.values()), "longest_match", "in_band")


def measure(runs: list[Path], num: int = 16) -> dict[str, Any]:
    """The scores of ``num`` samples of each version of some runs of one recipe, and which guards they cross."""
    torch.set_num_threads(1)
    found = [(RunFolder(run), version) for run in runs for version in list_versions(run / "checkpoints") if version.step]
    versions = {version.step: (run, version.name) for run, version in found}
    trained = {step: load_trained_run(run, name) for step, (run, name) in sorted(versions.items())}
    first = next(iter(trained.values()))
    data = MusicDataModule("chorales", tokenizer=first.tokenizer, window=768, packing=False, align=64)
    data.prepare_data()
    data.setup("fit")
    reference = reference_of(data, first.tokenizer, beats=BEATS, copy_bars=2)
    return {"samples": num, "beats": BEATS, "versions": {step: of_version(one, data, reference, num) for step, one in trained.items()}}


def of_version(trained: TrainedRun, data: MusicDataModule, reference: CorpusReference, num: int) -> dict[str, Any]:
    """One of them."""
    network, tokenizer = trained.network.eval(), trained.tokenizer
    begun = time.process_time()
    pieces = sample_pieces(
        network,
        tokenizer,
        num=num,
        max_new_tokens=tokens_for_beats(tokenizer, BEATS),
        min_new_tokens=least_tokens_for_beats(tokenizer, LEAST_BEATS),
        context=768,
        top_p=TOP_P,
        seed=0,
    )
    played = time.process_time()
    samples = [Sample(str(number), first_beats(piece.notes, BEATS)) for number, piece in enumerate(pieces)]
    scores = score_samples(samples, reference)
    real = [piece.notes for piece in validation_pieces(data, PIECES_FOR_VALIDITY)]
    validity = bootstrap_interval(legal_probabilities(network, tokenizer, real, 768))
    ended = time.process_time()
    values = {**{name: interval for name, interval in scores.values.items() if name in KEPT}, "token_validity": validity}
    means = {f"val/{name}": interval.mean for name, interval in values.items()}
    return {
        **{name: [round(bound, 5) for bound in interval if math.isfinite(bound)] for name, interval in values.items()},
        "guards_crossed": [name for name, guard in GUARDS.items() if guard.crossed(means)],
        "processor_seconds": {"playing": round(played - begun, 2), "scoring": round(ended - played, 2)},
    }
