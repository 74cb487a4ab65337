"""Every shipped recipe can be read by anybody, and by fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from musictrain.cli.lightning_cli import MusicCLI
from musictrain.cli.recipes import recipes

RECIPES = recipes()


class Parsed(MusicCLI):
    """Reads a configuration and goes no further."""

    def instantiate_classes(self) -> None:
        self.config_init = self.config

    def _run_subcommand(self, subcommand: str) -> None:
        return


def uncommented(text: str) -> list[str]:
    """The keys whose line says nothing about them; a section need not."""
    lines = text.splitlines()
    return [key.value for key, value in pairs(yaml.compose(text)) if not is_section(value) and "#" not in lines[key.start_mark.line]]


def pairs(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every key of a YAML document with its value, as nodes."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key, value
            yield from pairs(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from pairs(item)


def is_section(node: Any) -> bool:
    """Whether a value is a mapping, or a list of mappings."""
    return isinstance(node, yaml.MappingNode) or (isinstance(node, yaml.SequenceNode) and any(is_section(item) for item in node.value))


def test_there_are_recipes() -> None:
    assert {"chorales", "folder", "folk"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_key_carries_a_comment(name: str) -> None:
    assert uncommented(RECIPES[name].read_text(encoding="utf-8")) == []


def test_a_key_without_a_comment_is_found() -> None:
    assert uncommented("a: 1\nb: 2  # why\nc:\n  - d: 3\n    e: [1]  # why\n") == ["a", "d"]


@pytest.mark.parametrize("name", RECIPES)
def test_fit_reads_every_recipe(name: str, tmp_path: Path) -> None:
    cli = Parsed("fit", ["--config", str(RECIPES[name]), "--runs", str(tmp_path)])
    settings = cli.settings
    assert settings.trainer.max_steps > 0
    assert settings.model.class_path == "musictrain.MusicModule"
    assert settings.model.init_args.network.init_args.get("vocab_size") is None
