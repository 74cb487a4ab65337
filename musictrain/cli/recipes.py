"""``--config chorales``: the recipes that come with musictrain, found by name."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from musictrain.cli.exits import UsageError
from musictrain.suggestions import did_you_mean

CONFIG_OPTIONS = ("--config", "-c")
PACKAGE = Path(__file__).parent.parent
PROTOCOL = "stages-"  # what the files of protocols begin with


def recipes() -> dict[str, Path]:
    """The shipped recipes by name: beside the package in a checkout, inside it in a wheel."""
    return {name: path for name, path in _shipped().items() if not name.startswith(PROTOCOL)}


def protocols() -> dict[str, Path]:
    """The shipped protocols of several stages by name."""
    return {name: path for name, path in _shipped().items() if name.startswith(PROTOCOL)}


def _shipped() -> dict[str, Path]:
    for folder in (PACKAGE / "configs", PACKAGE.parent / "configs"):
        found = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
        if found:
            return found
    return {}


def find_config(text: str) -> Path:
    """The file that ``--config`` names: a path, or the name of a shipped recipe.

    Raises:
        UsageError: if there is neither, with the nearest recipe and the list of all.
    """
    path, shipped = Path(text).expanduser(), recipes()
    if path.is_file():
        return path
    if text in shipped:
        return shipped[text]
    hint = f"{did_you_mean(path.stem, shipped)} Recipes: {', '.join(shipped)}.".strip()
    raise UsageError(f"No configuration file and no recipe {text!r}. {hint}")


def config_files(arguments: Sequence[str]) -> list[Path]:
    """What ``--config`` names on a command line, in order."""
    spaced = [value for option, value in pairwise(arguments) if option in CONFIG_OPTIONS]
    joined = [value for word in arguments for option, _, value in [word.partition("=")] if value and option in CONFIG_OPTIONS]
    return [Path(text) for text in (*spaced, *joined)]


def with_recipes(arguments: list[str]) -> list[str]:
    """The command line with every ``--config NAME`` turned into the path of a file.

    Raises:
        UsageError: for a name that is neither a file nor a recipe.
    """
    resolved: list[str] = []
    for position, word in enumerate(arguments):
        option, equals, value = word.partition("=")
        if equals and option in CONFIG_OPTIONS:
            resolved.append(f"{option}={_resolve(value)}")
        elif position and arguments[position - 1] in CONFIG_OPTIONS:
            resolved.append(_resolve(word))
        else:
            resolved.append(word)
    return resolved


def _resolve(text: str) -> str:
    # LightningCLI also takes the content of a configuration in place of a file.
    return text if "\n" in text or text.lstrip().startswith("{") else str(find_config(text))
