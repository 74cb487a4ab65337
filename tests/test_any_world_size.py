"""1, 2 and 4 processes, with accumulation and without, see the same global batches of real chorales and train to the same weights.

The order in which floating-point numbers are added differs, and so may the last bits. After six steps of a Decoder without dropout, weights
of up to 1.1 differ by at most ``TOLERANCE`` with SGD (2.4e-7 was seen). AdamW divides by the size of gradients, and where they are almost 0
it makes steps of their noise: there ``ADAMW_TOLERANCE`` holds (3.7e-6 was seen), against a learning rate of 0.003.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from musictrain import Decoder, MusicDataModule, MusicModule
from musictrain.callbacks import AccumulationSchedule
from musictrain.data.tokenizers import VoiceGrid
from musictrain.optim import Constant
from tests.strategies.ranks import run_ranks
from tests.tiny_runs import logged, new_trainer

pytestmark = pytest.mark.slow
TOLERANCE, ADAMW_TOLERANCE, LOSS_TOLERANCE = 1e-6, 1e-5, 1e-6
ROWS, WINDOW, STEPS = 32, 128, 6
WORLDS, ACCUMULATIONS = (1, 2, 4), (1, 4)
SCHEDULE = {0: ROWS * WINDOW // 2, 2: ROWS * WINDOW}


def sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.3, momentum=0.9)


def adamw(params: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=0.003)


CASES: dict[str, dict[str, Any]] = {
    "packed": {"packing": True, "optimizer": sgd},
    "padded": {"packing": False, "optimizer": sgd},
    "AdamW": {"packing": False, "optimizer": adamw},
    "clipped to a norm": {"packing": False, "optimizer": sgd, "gradient_clip_val": 0.1},
    "clipped by value": {"packing": False, "optimizer": sgd, "gradient_clip_val": 0.003, "gradient_clip_algorithm": "value"},
    "by tokens": {"packing": False, "optimizer": sgd, "scheduled": True},
}


class Keeps(Callback):
    """Remembers this rank's rows."""

    def __init__(self) -> None:
        self.rows: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: dict[str, Any], batch_idx: int) -> None:
        self.rows.append(batch["tokens"].clone())


def run(folder: Path, world: int, accumulation: int, *, packing: bool, optimizer: Any, scheduled: bool = False, **options: Any) -> None:
    """One training on this rank; the first writes down what it logged and the weights, every one its rows."""
    data = MusicDataModule("chorales", window=WINDOW, batch_size=ROWS // accumulation // (2 if scheduled else 1), packing=packing)
    torch.manual_seed(0)
    network = Decoder(data.vocab_size, d_model=16, num_layers=1, num_heads=2, dropout=0.0, max_context=WINDOW)
    module = MusicModule(network, optimizer, Constant(), label_smoothing=0.1, z_loss=1e-4)
    keeps = Keeps()
    callbacks = [keeps, *([AccumulationSchedule(global_batch_tokens=SCHEDULE)] if scheduled else [])]
    if not scheduled:
        options["accumulate_grad_batches"] = accumulation
    if world > 1:
        options |= {"devices": world, "strategy": "ddp"}
    trainer = new_trainer(folder, max_steps=STEPS, limit_val_batches=0, callbacks=callbacks, **options)
    trainer.fit(module, data)
    torch.save({"rows": keeps.rows, "weights": network.state_dict()}, folder / f"rank{trainer.global_rank}.pt")


def run_world(folder: Path, world: int) -> None:
    torch.set_num_threads(1)
    for case, options in CASES.items():
        for accumulation in ACCUMULATIONS:
            place = folder / case / f"{world}x{accumulation}"
            place.mkdir(parents=True, exist_ok=True)
            run(place, world, accumulation, **options)


def run_all(folder: Path) -> None:
    MusicDataModule("chorales").prepare_data()
    for world in WORLDS:
        run_ranks(world, run_world, folder, world)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    folder = tmp_path_factory.mktemp("worlds")
    script = "import sys; from pathlib import Path; from tests.test_any_world_size import run_all; run_all(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", script, str(folder)], cwd=repository, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def result(runs: Path, case: str, world: int, accumulation: int, rank: int = 0) -> dict[str, Any]:
    return torch.load(runs / case / f"{world}x{accumulation}" / f"rank{rank}.pt", weights_only=True)  # type: ignore[no-any-return]


def global_rows(runs: Path, case: str, world: int, accumulation: int) -> torch.Tensor:
    """The rows of all batches and ranks in their order, (rows, window + 1)."""
    ranks = [result(runs, case, world, accumulation, rank)["rows"] for rank in range(world)]
    return torch.cat([torch.stack(parts, dim=1).flatten(0, 1) for parts in zip(*ranks, strict=True)])


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((tensor - other[name]).abs().max()) for name, tensor in one.items())


DIVIDED = [(world, accumulation) for world in WORLDS for accumulation in ACCUMULATIONS if (world, accumulation) != (1, 1)]
every_division = pytest.mark.parametrize(("world", "accumulation"), DIVIDED)
every_case = pytest.mark.parametrize("case", CASES)


@every_division
@every_case
def test_the_global_batches_are_the_same(runs: Path, case: str, world: int, accumulation: int) -> None:
    assert torch.equal(global_rows(runs, case, world, accumulation), global_rows(runs, case, 1, 1))


@every_division
@every_case
def test_the_weights_are_the_same_up_to_the_order_of_sums(runs: Path, case: str, world: int, accumulation: int) -> None:
    whole, divided = (result(runs, case, *division)["weights"] for division in ((1, 1), (world, accumulation)))
    assert difference(whole, divided) <= (ADAMW_TOLERANCE if case == "AdamW" else TOLERANCE)


@every_division
@every_case
def test_what_is_logged_is_the_same(runs: Path, case: str, world: int, accumulation: int) -> None:
    whole, divided = runs / case / "1x1", runs / case / f"{world}x{accumulation}"
    assert logged(divided, "train/tokens") == logged(whole, "train/tokens")
    for key in ("train/loss", "train/gradient_norm"):
        assert logged(divided, key) == pytest.approx(logged(whole, key), rel=LOSS_TOLERANCE, abs=LOSS_TOLERANCE)
    assert len(logged(whole, "train/loss")) == STEPS


def test_the_comparison_would_notice(runs: Path) -> None:
    """Rows differ in padding, training moves the weights, and clipping changes them."""
    padding = (global_rows(runs, "padded", 1, 1) == VoiceGrid().pad_id).sum(1)
    assert padding.max() > WINDOW // 2 > padding.min() == 0
    weights = {case: result(runs, case, 1, 1)["weights"] for case in CASES}
    torch.manual_seed(0)
    start = Decoder(VoiceGrid().vocab_size, d_model=16, num_layers=1, num_heads=2, dropout=0.0, max_context=WINDOW).state_dict()
    assert all(difference(each, start) > 1000 * TOLERANCE for each in weights.values())
    for case in ("clipped to a norm", "clipped by value", "by tokens"):
        assert difference(weights[case], weights["padded"]) > 1000 * TOLERANCE
