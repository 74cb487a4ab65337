"""musictrain.data's names lead somewhere, and cost nothing until they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import musictrain.data


@pytest.mark.parametrize("name", musictrain.data.__all__)
def test_every_public_name_leads_somewhere(name: str) -> None:
    assert getattr(musictrain.data, name).__module__.startswith("musictrain.data")
    assert name in dir(musictrain.data)


def test_another_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'load_corpse'. It has: ScoreError, read_notes"):
        musictrain.data.load_corpse  # noqa: B018


def test_importing_the_package_imports_no_parser() -> None:
    heavy = "sorted({'torch', 'symusic', 'miditok', 'music21', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, musictrain.data; print({heavy})"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
