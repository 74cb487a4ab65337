"""A tokenizer as a JSON file: class, arguments, the versions it ran with, and the fingerprint that proves a rebuilt one is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from musictrain.data.tokenizers.midi_tok import MidiTokTokenizer
from musictrain.data.tokenizers.protocol import Tokenizer
from musictrain.data.tokenizers.voice_grid import VoiceGrid
from musictrain.runs.atomic import atomic_write
from musictrain.runs.environment import package_versions
from musictrain.suggestions import did_you_mean

# A closed list: a file names a class, and reading a file must never import or run what it likes.
CLASSES: dict[str, type] = {"VoiceGrid": VoiceGrid, "MidiTokTokenizer": MidiTokTokenizer}
PACKAGES = ("musictrain", "miditok", "symusic")


class TokenizerFileError(ValueError):
    """A tokenizer file that cannot be used: not JSON, an unknown class, bad arguments, or another fingerprint."""


def save_tokenizer(tokenizer: Tokenizer, path: str | Path) -> None:
    """Write a tokenizer as JSON, atomically.

    Raises:
        TokenizerFileError: for a class that ``load_tokenizer`` would not know.
        OSError: if the file cannot be written.
    """
    name = type(tokenizer).__name__
    if CLASSES.get(name) is not type(tokenizer):
        raise TokenizerFileError(f"Only {' and '.join(CLASSES)} can be saved, not {type(tokenizer).__module__}.{name}.")
    content = {
        "class": name,
        "config": tokenizer.config(),
        "fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "versions": package_versions(PACKAGES),
    }
    atomic_write(path, json.dumps(content, indent=2) + "\n")


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer that ``save_tokenizer`` wrote; every token id means what it meant then.

    Raises:
        FileNotFoundError: if there is no such file.
        TokenizerFileError: if the file is not a tokenizer's, or the tokenizer built from it here has other tokens.
    """
    content = _read(Path(path))
    name = content["class"]
    if name not in CLASSES:
        raise TokenizerFileError(f"{path} holds a {name!r}; known are {' and '.join(CLASSES)}. {did_you_mean(str(name), CLASSES)}".rstrip())
    try:
        tokenizer: Tokenizer = CLASSES[name](**content["config"])
    except (TypeError, ValueError) as error:
        raise TokenizerFileError(f"{path} holds arguments that {name} does not take: {error}") from error
    _check_fingerprint(tokenizer, content, path)
    return tokenizer


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerFileError(f"{path} is not a tokenizer's JSON: {error}. Was it written by save_tokenizer?") from error
    expected = {"class", "config", "fingerprint"}
    missing = expected - set(content) if isinstance(content, dict) else expected
    if missing:
        raise TokenizerFileError(f"{path} lacks {', '.join(sorted(missing))}: it is not a file that save_tokenizer wrote.")
    return content


def _check_fingerprint(tokenizer: Tokenizer, content: dict[str, Any], path: str | Path) -> None:
    if tokenizer.fingerprint == content["fingerprint"]:
        return
    now, then = package_versions(PACKAGES), content.get("versions", {})
    versions = ", ".join(f"{name} {then.get(name)} then, {now[name]} now" for name in PACKAGES)
    raise TokenizerFileError(
        f"{path} was saved with fingerprint {content['fingerprint']}, but the same arguments give {tokenizer.fingerprint} here: "
        f"token ids would change their meaning. Versions: {versions}. Install the versions of then, or encode and train anew."
    )
