"""``stages --check``: whether ``fit`` can read the configuration of every stage that is left, before the first one trains."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml

from musictrain.cli.console import quiet_terminal
from musictrain.cli.exits import FINISHED, UsageError
from musictrain.cli.stages_loading import Loaded
from musictrain.stages.planning import is_done
from musictrain.stages.references import filled
from musictrain.stages.state import State


def check_configurations(loaded: Loaded, state: State) -> int:
    """Read every configuration as ``fit`` does, and go no further.

    Raises:
        UsageError: naming the stage and what is wrong.
    """
    for name, resolved in loaded.stages.items():
        record = state.record(name)
        if record is not None and is_done(resolved.stage, record):
            continue
        # What a reference stands for is not known yet; any name will do.
        config = filled(resolved.config, lambda stage, version: f"{stage}@{version}")
        try:
            read_as_fit_does(config)
        except (UsageError, ValueError) as error:
            raise UsageError(f"Stage {name!r}: {error}") from error
    print(f"fit can read the configurations of all {len(loaded.stages)} stages.")
    return FINISHED


def read_as_fit_does(config: Any) -> None:
    """Parse a configuration; nothing is built.

    Raises:
        UsageError: as ``fit`` says it.
    """
    with quiet_terminal(), tempfile.TemporaryDirectory() as folder:
        from musictrain.cli.lightning_cli import MusicCLI

        class Parsed(MusicCLI):
            """Reads, and goes no further."""

            def instantiate_classes(self) -> None:
                """Nothing."""

            def _run_subcommand(self, subcommand: str) -> None:
                return

        file = Path(folder) / "stage.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        Parsed("fit", ["--config", str(file)])
