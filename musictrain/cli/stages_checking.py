"""``stages --check``: can ``fit`` read every configuration that is left, and do the weights that are handed over fit? Before any training.

Networks are built without memory, to compare the names and shapes of their weights; what cannot be built like that is left to ``fit``.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from musictrain.cli.console import quiet_terminal
from musictrain.cli.exits import FINISHED, UsageError
from musictrain.cli.stages_loading import Loaded
from musictrain.stages.hand_overs import NETWORK, TOKENIZER
from musictrain.stages.merging import CLASS, value_at
from musictrain.stages.planning import is_done
from musictrain.stages.references import filled
from musictrain.stages.resolving import Resolved
from musictrain.stages.state import State

SCHEDULES = ("model.init_args.schedule", "model.init_args.distillation.weight_schedule")

log = logging.getLogger(__name__)


def check_configurations(loaded: Loaded, state: State) -> int:
    """Read every configuration as ``fit`` does, and hold what is handed over against what it is for.

    Raises:
        UsageError: naming the stage and what is wrong.
    """
    with quiet_terminal():
        for name, resolved in loaded.stages.items():
            record = state.record(name)
            if record is not None and is_done(resolved.stage, record):
                continue
            try:
                # What a reference stands for is not known yet; any name will do.
                read = read_as_fit_does(filled(resolved.config, lambda stage, version: f"{stage}@{version}"))
                if resolved.stage.budget.steps is None:
                    check_schedules(read)
            except (UsageError, ValueError) as error:
                raise UsageError(f"Stage {name!r}: {error}") from error
            if resolved.stage.hand_over is not None:
                check_weights(loaded.stages[resolved.stage.hand_over.source], resolved, resolved.stage.hand_over.vocabulary)
    print(f"fit can read the configurations of all {len(loaded.stages)} stages, and what is handed over fits.")
    return FINISHED


def read_as_fit_does(config: Any) -> dict[str, Any]:
    """Parse a configuration; nothing is built. Gives it back with every default, as plain values.

    Raises:
        UsageError: as ``fit`` says it.
    """
    from musictrain.cli.lightning_cli import MusicCLI

    class Parsed(MusicCLI):
        """Reads, and goes no further."""

        def instantiate_classes(self) -> None:
            """Nothing."""

        def _run_subcommand(self, subcommand: str) -> None:
            return

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "stage.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        parsed: dict[str, Any] = Parsed("fit", ["--config", str(file)]).settings.as_dict()
    return parsed


def check_schedules(config: Mapping[str, Any]) -> None:
    """Refuse a schedule that is laid over a number of steps, where the budget of a stage has none.

    Args:
        config: as ``fit`` reads it.

    Raises:
        UsageError: naming the schedule, and what would do.
    """
    from musictrain.checkpoints.stored_network import instantiated
    from musictrain.optim import Schedule

    for key in SCHEDULES:
        described = value_at(config, key)
        schedule = instantiated(Schedule, described) if isinstance(described, Mapping) and CLASS in described else described
        if isinstance(schedule, Schedule) and schedule.needs_total_steps:
            raise UsageError(
                f"its budget says no steps, and {key} is {type(schedule).__name__}, which is laid over a number of them. Say budget: "
                "{steps: ...} too, as the most there may be, or the schedule's total_steps; or take InverseSquareRoot or Constant."
            )


def check_weights(giver: Resolved, receiver: Resolved, vocabulary: str) -> None:
    """Refuse to hand weights over to a network of other shapes, or, unless tokens go by their names, of other tokens.

    Raises:
        UsageError: naming both stages and the weights.
    """
    from musictrain.checkpoints.starting_weights import StartMismatchError, weights_for
    from musictrain.checkpoints.vocabulary_rows import VocabularyChange, token_names

    where = f"Stage {receiver.stage.name!r} cannot take over from {giver.stage.name!r}"
    try:
        then, now = tokenizer_of(giver.config), tokenizer_of(receiver.config)
        if vocabulary == "same" and getattr(then, "fingerprint", None) != getattr(now, "fingerprint", None):
            raise UsageError(f"{where}: it reads other tokens ({then.name} there, {now.name} here). Say vocabulary: extend.")
        theirs, ours = (network_of(each.config, tokenizer) for each, tokenizer in ((giver, then), (receiver, now)))
        old, new = token_names(then), token_names(now)
        change = VocabularyChange(old, new, 0) if old is not None and new is not None else None
        weights_for(ours, {"state_dict": theirs.state_dict()}, change, f"Stage {giver.stage.name!r}")
    except StartMismatchError as error:
        raise UsageError(f"{where}. {error}") from error
    except UsageError:
        raise
    except Exception as error:  # somebody's own classes may need more than a configuration: fit will say
        log.debug("%s could not be looked at beforehand: %s", where, error)


def tokenizer_of(config: Mapping[str, Any]) -> Any:
    """The tokenizer that a configuration describes, or that MusicDataModule has by default."""
    from musictrain.checkpoints.stored_network import instantiated
    from musictrain.data.tokenizers import Tokenizer, VoiceGrid

    described = value_at(config, TOKENIZER)
    return VoiceGrid() if described is None else instantiated(Tokenizer, described)


def network_of(config: Mapping[str, Any], tokenizer: Any) -> Any:
    """A module whose ``network`` is the one that a configuration describes, without memory for its weights."""
    import torch

    from musictrain.checkpoints.stored_network import build_network

    module = torch.nn.Module()
    with torch.device("meta"):
        module.network = build_network(value_at(config, NETWORK), tokenizer.vocab_size, "the stage")
    return module
