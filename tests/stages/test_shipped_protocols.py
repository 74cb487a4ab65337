"""Every shipped protocol can be read by anybody, and works as far as it can be known beforehand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from musictrain.cli.recipes import protocols, recipes
from tests.cli.test_shipped_configs import uncommented
from tests.cli.tiny import type_command


def test_protocols_are_no_recipes() -> None:
    assert "stages-folk-to-chorales" in protocols()
    assert not set(protocols()) & set(recipes())


@pytest.mark.parametrize("name", protocols())
def test_every_key_carries_a_comment_and_the_plan_stands(name: str, capsys: Any) -> None:
    assert uncommented(protocols()[name].read_text(encoding="utf-8")) == []
    status, out, err = type_command(capsys, "stages", "--config", name, "--json")
    assert (status, err) == (0, "")
    assert all(stage["model"] and stage["data"] and stage["budget"] for stage in json.loads(out)["stages"])
