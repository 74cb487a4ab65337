"""``distill-corpus RUN --to FOLDER``: a corpus of a run's own music, for another network to learn from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musictrain.cli.exits import FINISHED, CommandError, UsageError
from musictrain.cli.options import CommandParser, positive
from musictrain.runs import find_run
from musictrain.runs.summary import shown

if TYPE_CHECKING:
    from musictrain.cli.trained_run import TrainedRun
    from musictrain.data.corpus import Corpus

CORPUS = ("corpus", "splits", "cache_dir")


def run(command: str, arguments: list[str]) -> int:
    """Make what is missing of the corpus; gives back the exit status.

    Raises:
        UsageError: for an option out of its range, a folder that holds something else, or a run that cannot be sampled from.
        CommandError: if a file cannot be read or written.
    """
    options = parser().parse_args(arguments)
    found = find_run(options.run, options.runs)
    from musictrain.cli.trained_run import load_trained_run
    from musictrain.data.reading_progress import reading_progress
    from musictrain.distillation.sampled_corpus import num_rounds, sample_corpus
    from musictrain.distillation.teacher import fingerprint_of

    trained = load_trained_run(found, options.ckpt)
    recipe = {"run": found.name, "version": trained.checkpoint.name, "step": trained.step, "weights": fingerprint_of(trained.network)}
    corpus = None if options.no_held_out else corpus_of(trained)
    try:
        with reading_progress(f"Rounds of music by {found.name}", num_rounds(options.num)) as advance:
            made = sample_corpus(
                trained.network,
                trained.tokenizer,
                options.to,
                num=options.num,
                recipe=recipe,
                seed=options.seed,
                corpus=corpus,
                mixed=options.mixed,
                advance=advance,
                **lengths_of(trained, options),
                **{name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "min_p")},
            )
    except ValueError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise CommandError(f"The corpus cannot be written: {error}") from error
    print(
        f"{made.pieces:,} pieces by {found.name}, {trained.checkpoint.name}, {made.fresh:,} of them made just now, in {shown(options.to)}."
    )
    if made.cut:
        print(f"{made.cut:,} of these did not end by themselves within {options.beats:g} beats and were cut: raise --beats.")
    held = f"{made.held_out:,} pieces of its corpus that it never saw are in valid and test." if corpus is not None else ""
    print(
        "\n".join([*([held] if held else []), "Next", f"  train on it  musictrain fit --config CONFIG --data.corpus {shown(options.to)}"])
    )
    return FINISHED


def parser() -> CommandParser:
    """The options of ``distill-corpus``."""
    parser = CommandParser(
        "distill-corpus", "Make a corpus of a run's own music that another network, of any tokenizer, can be trained on."
    )
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("run", metavar="RUN", help="the teacher: a folder, a name, a unique part of one, 'latest' or 'best'")
    parser.add_argument(
        "--to", type=Path, required=True, metavar="FOLDER", help="the corpus; what is there of it already is not made again"
    )
    parser.add_argument("--num", type=positive, default=256, help="number of pieces by the teacher")
    parser.add_argument("--beats", type=float, default=128.0, help="length in quarter notes at which a piece is cut")
    parser.add_argument("--min-beats", type=float, default=16.0, help="before so many quarter notes a piece does not end; 0 is off")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1 bolder towards the likely, above 1 more surprising")
    parser.add_argument("--top-k", type=int, default=0, help="draw from the k likeliest tokens only; 0 is off")
    parser.add_argument("--top-p", type=float, default=0.95, help="draw from the likeliest tokens that make up this probability; 1 is off")
    parser.add_argument("--min-p", type=float, default=0.0, help="leave out tokens this much less likely than the likeliest; 0 is off")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same pieces")
    parser.add_argument("--ckpt", default="best", metavar="best|last|V|FILE", help="which weights: a version's number or name, or a file")
    parser.add_argument("--mixed", action="store_true", help="put the pieces that the run was trained on beside its own")
    parser.add_argument("--no-held-out", action="store_true", help="leave out valid and test: then a fit splits the run's own pieces")
    return parser


def lengths_of(trained: TrainedRun, options: Any) -> dict[str, Any]:
    """How long pieces may and must be, in tokens, and how much of a piece the network sees."""
    from musictrain.cli.sample import recorded_tokens_per_beat, recorded_window
    from musictrain.generation.length import least_tokens_for_beats, tokens_for_beats
    from musictrain.generation.window import trained_context

    rate = recorded_tokens_per_beat(trained.run)
    try:
        return {
            "max_new_tokens": tokens_for_beats(trained.tokenizer, options.beats, rate),
            "min_new_tokens": least_tokens_for_beats(trained.tokenizer, min(options.min_beats, options.beats), rate),
            "context": trained_context(trained.network, recorded_window(trained.run)),
        }
    except ValueError as error:
        raise UsageError(str(error)) from error


def corpus_of(trained: TrainedRun) -> Corpus:
    """The corpus that a run was trained on.

    Raises:
        UsageError: if its configuration names none, or it cannot be read any more.
    """
    from musictrain.cli.resume import read_config, value_at
    from musictrain.data.corpora import load_corpus

    settings = value_at(read_config(trained.run), "data.init_args")
    if not isinstance(settings, dict) or not settings.get("corpus"):
        raise UsageError(f"{trained.run.config} names no corpus to take valid and test from: add --no-held-out.")
    known = {name: settings[name] for name in CORPUS[1:] if settings.get(name) is not None}
    try:
        return load_corpus(str(settings["corpus"]), **known)
    except ValueError as error:
        raise UsageError(f"The corpus of run {trained.run.name} cannot be read any more: {error} Or add --no-held-out.") from error
