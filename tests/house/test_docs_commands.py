"""Every command that README.md and the help text tell a reader to type exists, with its options and the files it names."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from musictrain.cli.commands import COMMANDS, help_text, main
from musictrain.cli.recipes import protocols, recipes

REPOSITORY = Path(__file__).resolve().parents[2]
OF_LIGHTNING = {"fit", "validate", "test", "predict"}
WITH_ACTIONS = {"checkpoints", "runs"}
MAKE_VARIABLES = {"ARGS", "PYTHON", "WORKERS", "VENV", "BENCHMARKS"}
PROGRAM = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(make|musictrain|python -m musictrain|python -m benchmarks\.\w+)(?=\s|$)(.*)$")


def commands_of(text: str) -> list[list[str]]:
    """Every line of a document that runs make, musictrain or a benchmark, as words; the program is the first."""
    found = (PROGRAM.match(line.strip()) for line in text.replace("\\\n", " ").splitlines())
    return [[match[1].replace("python -m musictrain", "musictrain"), *shlex.split(match[2], comments=True)] for match in found if match]


def blocks_of(markdown: str) -> str:
    """What stands between code fences."""
    return "\n".join(markdown.split("```")[1::2])


def documented() -> list[list[str]]:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    in_help = [line.strip().split("  ")[0] for line in help_text().splitlines() if line.startswith("  musictrain ")]
    words = commands_of(blocks_of(readme)) + commands_of("\n".join(in_help))
    return [list(command) for command in dict.fromkeys(map(tuple, words))]


def calls(*, of_lightning: bool) -> list[list[str]]:
    """The documented calls of musictrain, but for those of placeholders and of help."""
    of_musictrain = [words for words in documented() if words[0] == "musictrain" and len(words) > 1 and "--help" not in words]
    return [words for words in of_musictrain if (words[1] in OF_LIGHTNING) == of_lightning]


@cache
def help_of(*command: str) -> str:
    """What ``musictrain COMMAND --help`` prints; ``COMMAND`` may have an action."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*command, "--help"])
    return printed.getvalue()


def test_there_are_commands_to_check() -> None:
    programs = [words[0] for words in documented()]
    assert programs.count("make") >= 2
    assert programs.count("musictrain") >= 3


@pytest.mark.parametrize("words", [w for w in documented() if w[0] == "make"], ids=" ".join)
def test_make_targets_exist(words: list[str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for word in words[1:]:
        assert word in targets or word.split("=")[0] in MAKE_VARIABLES


@pytest.mark.parametrize("words", [w for w in documented() if w[0] == "musictrain" and len(w) > 1], ids=" ".join)
def test_commands_and_configurations_exist(words: list[str]) -> None:
    assert words[1] in {command.name for command in COMMANDS} | {"--help", "--version", "COMMAND"}
    for option, value in itertools.pairwise(words):
        if option == "--config":
            assert value in recipes() or value in protocols() or (REPOSITORY / value).is_file(), f"no recipe and no file {value}"


@pytest.mark.parametrize("words", calls(of_lightning=False), ids=" ".join)
def test_options_of_our_commands_are_known(words: list[str]) -> None:
    command = words[1:3] if words[1] in WITH_ACTIONS else words[1:2]
    known = help_of(*command)
    for option in (word.split("=")[0] for word in words[2:] if word.startswith("--")):
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", known), f"{option} is not in `musictrain {' '.join(command)} --help`"


@pytest.mark.parametrize("words", calls(of_lightning=True), ids=" ".join)
def test_options_of_training_commands_are_known(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    status: object = 0
    try:
        status = main([*words[1:], "--print_config"])
    except SystemExit as stop:
        status = stop.code
    printed = capsys.readouterr()
    assert status in (0, None), printed.err
    assert "trainer:" in printed.out


@pytest.mark.parametrize("words", [w for w in documented() if w[0].startswith("python -m benchmarks")], ids=" ".join)
def test_benchmarks_exist(words: list[str]) -> None:
    assert (REPOSITORY / words[0].split()[-1].replace(".", "/")).with_suffix(".py").is_file()


def test_commands_are_found_in_a_document() -> None:
    text = '$ make train ARGS="--a b"\nVAR=1 python -m musictrain fit --config x \\\n  --name y  # why\nprints things\nmakes no sense\n'
    assert commands_of(text) == [["make", "train", "ARGS=--a b"], ["musictrain", "fit", "--config", "x", "--name", "y"]]
