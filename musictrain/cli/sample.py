"""``sample RUN``: make music from a checkpoint, as files to hear, to see and to read."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musictrain.cli.exits import FINISHED, UsageError
from musictrain.cli.options import CommandParser, positive
from musictrain.runs import RunFolder, find_run
from musictrain.runs.summary import shown

if TYPE_CHECKING:
    from musictrain.cli.trained_run import TrainedRun
    from musictrain.generation import SampledPiece
    from musictrain.notes import Notes

RULE = ("temperature", "top_k", "top_p", "min_p", "seed")


def run(command: str, arguments: list[str]) -> int:
    """Generate pieces and write them; gives back the exit status.

    Raises:
        UsageError: for an option out of its range, a prompt that cannot be read, or a run that cannot be sampled from.
    """
    options = parser().parse_args(arguments)
    found = find_run(options.run, options.runs)
    from musictrain.cli.trained_run import load_trained_run

    prompt = None if options.prompt is None else read_prompt(options.prompt)
    trained = load_trained_run(found, options.ckpt)
    pieces = generate_pieces(trained, prompt, options)
    folder = options.out or found.samples / datetime.now().strftime("asked_%Y-%m-%d_%H%M%S")
    rows = [write_piece(piece, folder / f"sample_{number}", trained, options) for number, piece in enumerate(pieces, start=1)]
    print(f"{found.name}, {trained.checkpoint.name} after {trained.step:,} steps")
    print("\n".join(table(rows)))
    print(f"In {shown(folder)}: .wav and .mid to hear, .png to see, .json to read.")
    return FINISHED


def parser() -> CommandParser:
    """The options of ``sample``."""
    parser = CommandParser("sample", "Make music from a checkpoint: .mid, .wav, .png and .json for each piece.")
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("run", metavar="RUN", help="a folder, a name, a unique part of one, 'latest' or 'best'")
    parser.add_argument("--n", type=positive, default=4, help="number of pieces")
    parser.add_argument("--beats", type=float, default=64.0, help="length of the new music in quarter notes; a piece may end earlier")
    parser.add_argument("--min-beats", type=float, default=16.0, help="before so many new quarter notes a piece does not end; 0 is off")
    parser.add_argument("--prompt", type=Path, metavar="FILE", help="a score (.mid, .abc, .mxl, .krn) to continue")
    parser.add_argument("--prompt-beats", type=float, default=16.0, help="how much of the prompt is given, in quarter notes")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1 bolder towards the likely, above 1 more surprising")
    parser.add_argument("--top-k", type=int, default=0, help="draw from the k likeliest tokens only; 0 is off")
    parser.add_argument("--top-p", type=float, default=0.95, help="draw from the likeliest tokens that make up this probability; 1 is off")
    parser.add_argument("--min-p", type=float, default=0.0, help="leave out tokens this much less likely than the likeliest; 0 is off")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same pieces")
    parser.add_argument("--ckpt", default="best", metavar="best|last|V|FILE", help="which weights: a version's number or name, or a file")
    parser.add_argument("--no-grammar", action="store_true", help="draw from the bare network; tokens that mean nothing are dropped")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (a new folder among the run's samples)")
    return parser


def read_prompt(path: Path) -> Notes:
    """The notes of a score file.

    Raises:
        UsageError: if it cannot be read as music.
    """
    from musictrain.data.scores import ScoreError, read_notes

    try:
        return read_notes(path)
    except ScoreError as error:
        raise UsageError(f"The prompt cannot be read. {error}") from error


def generate_pieces(trained: TrainedRun, prompt: Notes | None, options: Any) -> list[SampledPiece]:
    """The pieces that were asked for.

    Raises:
        UsageError: if an option is out of its range, or the tokenizer cannot hold the prompt.
    """
    from musictrain.generation import sample_pieces
    from musictrain.generation.length import least_tokens_for_beats, tokens_for_beats
    from musictrain.generation.window import trained_context

    rate = recorded_tokens_per_beat(trained.run)
    try:
        return sample_pieces(
            trained.network,
            trained.tokenizer,
            num=options.n,
            max_new_tokens=tokens_for_beats(trained.tokenizer, options.beats, rate),
            min_new_tokens=least_tokens_for_beats(trained.tokenizer, min(options.min_beats, options.beats), rate),
            prompt=prompt,
            prompt_beats=None if prompt is None else options.prompt_beats,
            use_grammar=not options.no_grammar,
            context=trained_context(trained.network, recorded_window(trained.run)),
            **{name: getattr(options, name) for name in RULE},
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def recorded_tokens_per_beat(run: RunFolder) -> float | None:
    """What the run wrote down about its training pieces, None if it did not."""
    if not run.environment.is_file():
        return None
    value = json.loads(run.environment.read_text(encoding="utf-8")).get("tokens_per_beat")
    return float(value) if value else None


def recorded_window(run: RunFolder) -> int | None:
    """Tokens of a training row in a run's configuration, None if it does not say."""
    from musictrain.cli.resume import read_config, value_at

    value = value_at(read_config(run), "data.init_args.window")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def write_piece(piece: SampledPiece, stem: Path, trained: TrainedRun, options: Any) -> tuple[str, ...]:
    """Write one piece; gives back its row of the table."""
    from musictrain.generation.continuation import first_beats
    from musictrain.listening.sample_files import write_sample

    notes = first_beats(piece.notes, piece.prompt_beats + options.beats)
    info = {
        "run": trained.run.name,
        "checkpoint": trained.checkpoint.name,
        "step": trained.step,
        "prompt": None if options.prompt is None else options.prompt.name,
        "ended": piece.ended,
        "log_prob_per_token": piece.log_prob_per_token,
        **{name: getattr(options, name) for name in RULE},
    }
    write_sample(notes, stem, info=info, prompt_beats=piece.prompt_beats)
    ended = "by itself" if piece.ended else "cut"
    return stem.name, f"{len(notes):,}", f"{notes.end:g}", f"{-piece.log_prob_per_token:.3f}", ended


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """The rows under their headings, numbers flush right."""
    titled = [("piece", "notes", "beats", "nats/token", "end"), *rows]
    widths = [max(len(row[column]) for row in titled) for column in range(5)]
    return ["  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3)), row[4]]) for row in titled]
