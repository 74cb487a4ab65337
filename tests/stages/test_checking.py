"""What only fit and the networks themselves can know is found before the first stage trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.tiny import tiny_config, type_command

GRID = {"class_path": "musictrain.VoiceGrid", "init_args": {"lowest": 36, "highest": 81}}


def network(**arguments: Any) -> dict[str, Any]:
    return {"model": {"init_args": {"network": {"init_args": arguments}}}}


def tokens(**arguments: Any) -> dict[str, Any]:
    return {"data": {"init_args": {"tokenizer": {**GRID, "init_args": {**GRID["init_args"], **arguments}}}}}  # type: ignore[dict-item]


def check(
    capsys: Any, folder: Path, second: dict[str, Any], hand_over: Any = "best", budget: dict[str, Any] | None = None
) -> tuple[int, str, str]:
    """Of two stages, the second of which differs."""
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**tiny_config("nowhere")}))
    stage = {"extends": "tiny.yaml", "budget": {"steps": 6}, "config": tokens()}
    told = {
        "name": "two",
        "stages": [
            {"name": "a", **stage},
            {"name": "b", **stage, "extends": "a", "config": second, "hand_over": hand_over, "budget": budget or {"steps": 6}},
        ],
    }
    (folder / "protocol.yaml").write_text(yaml.safe_dump(told))
    return type_command(capsys, "stages", "--config", folder / "protocol.yaml", "--runs", folder / "runs", "--check")


@pytest.mark.parametrize(
    ("second", "hand_over", "message"),
    [
        ({"trainer": {"val_check_intervall": 3}}, "best", "Stage 'b': Unknown option 'trainer.val_check_intervall'. Did you mean"),
        pytest.param(network(widht=3), "best", "Decoder has no 'widht'", marks=pytest.mark.slow),
        (network(d_model=16), "best", "Stage 'b' cannot take over from 'a'. Stage 'a' holds other weights than Decoder has"),
        pytest.param(network(num_layers=2), "last", "'a'. Stage 'a' holds other weights than Decoder has", marks=pytest.mark.slow),
    ],
)
def test_what_would_end_a_later_stage_is_said_before_the_first(
    second: dict[str, Any], hand_over: Any, message: str, capsys: Any, tmp_path: Path
) -> None:
    status, _, err = check(capsys, tmp_path, second, hand_over)
    assert status == 2
    assert message in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("second", "hand_over"),
    [
        pytest.param(network(dropout=0.5), {"optimizer": True, "version": "last"}, marks=pytest.mark.slow),
        pytest.param(network(d_model=16), "nothing", marks=pytest.mark.slow),
        (tokens(highest=90), {"vocabulary": "extend"}),
    ],
)
def test_what_fits_is_let_pass(second: dict[str, Any], hand_over: Any, capsys: Any, tmp_path: Path) -> None:
    status, out, err = check(capsys, tmp_path, second, hand_over)
    assert (status, err) == (0, "")
    assert "what is handed over fits" in out


SCHEDULE = {"class_path": "musictrain.optim.WarmupCosine", "init_args": {"total_steps": 500}}


@pytest.mark.parametrize(
    ("schedule", "budget", "fits"),
    [
        (None, {"minutes": 3}, False),
        (None, {"minutes": 3, "steps": 500}, True),
        (SCHEDULE, {"stop": "val/loss"}, True),
        ("musictrain.optim.Constant", {"minutes": 3}, True),
    ],
)
def test_a_schedule_over_a_number_of_steps_needs_one_in_the_budget(
    schedule: Any, budget: dict[str, Any], fits: bool, capsys: Any, tmp_path: Path
) -> None:
    own = {} if schedule is None else {"model": {"init_args": {"schedule": schedule}}}
    status, _, err = check(capsys, tmp_path, own, "nothing", budget)
    assert status == (0 if fits else 2)
    assert fits or "Stage 'b': its budget says no steps, and model.init_args.schedule is WarmupCosine" in err
