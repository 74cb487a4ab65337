"""1, 2 and 4 processes, with accumulation and without, see the same global batches of real chorales and train to the same weights.

That holds under every strategy. The order in which floating-point numbers are added differs, and so may the last bits. After six steps of a
Decoder without dropout, weights of up to 1.1 differ by at most ``TOLERANCE`` with SGD (2.5e-7 was seen). AdamW divides by the size of
gradients, and where they are almost 0 it makes steps of their noise: there ``ADAMW_TOLERANCE`` holds (3.7e-6 was seen), against a learning
rate of 0.003.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from musictrain import Decoder, MusicDataModule, MusicModule
from musictrain.callbacks import AccumulationSchedule
from musictrain.data.tokenizers import VoiceGrid
from musictrain.optim import Constant
from musictrain.strategies import ShardedStrategy
from tests.strategies.ranks import run_ranks
from tests.tiny_runs import logged, new_trainer

pytestmark = pytest.mark.slow
TOLERANCE, ADAMW_TOLERANCE, LOSS_TOLERANCE = 1e-6, 1e-5, 1e-6
ROWS, WINDOW, STEPS = 32, 128, 6
ACCUMULATIONS = (1, 4)
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


class Spread(NamedTuple):
    """Over how many processes, which of them read unlike rows, and how."""

    world: int
    readers: tuple[int, ...]
    strategy: Callable[[], Any]
    cases: tuple[str, ...] = tuple(CASES)


IN_SHARES = ("packed", "padded", "clipped to a norm", "clipped by value", "by tokens")
SPREADS = {
    "one": Spread(1, (0,), lambda: "auto"),
    "two": Spread(2, (0, 1), lambda: "ddp"),
    "four": Spread(4, (0, 1, 2, 3), lambda: "ddp"),
    "fsdp": Spread(2, (0, 1), ShardedStrategy, IN_SHARES),
    "tp": Spread(2, (0,), lambda: ShardedStrategy(tensor_parallel_size=2), IN_SHARES),
    "fsdp+tp": Spread(4, (0, 2), lambda: ShardedStrategy(tensor_parallel_size=2), IN_SHARES),
}


class Keeps(Callback):
    """Remembers this rank's rows."""

    def __init__(self) -> None:
        self.rows: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: dict[str, Any], batch_idx: int) -> None:
        self.rows.append(batch["tokens"].clone())


def run(folder: Path, spread: Spread, accumulation: int, *, packing: bool, optimizer: Any, scheduled: bool = False, **options: Any) -> None:
    """One training on this rank; the first writes down what it logged and the weights, every one its rows."""
    data = MusicDataModule("chorales", window=WINDOW, batch_size=ROWS // accumulation // (2 if scheduled else 1), packing=packing)
    torch.manual_seed(0)
    network = Decoder(data.vocab_size, d_model=16, num_layers=1, num_heads=2, dropout=0.0, max_context=WINDOW)
    module = MusicModule(network, optimizer, Constant(), label_smoothing=0.1, z_loss=1e-4)
    keeps = Keeps()
    callbacks = [keeps, *([AccumulationSchedule(global_batch_tokens=SCHEDULE)] if scheduled else [])]
    if not scheduled:
        options["accumulate_grad_batches"] = accumulation
    options |= {"devices": spread.world, "strategy": spread.strategy(), "max_steps": STEPS, "limit_val_batches": 0}
    trainer = new_trainer(folder, callbacks=callbacks, **options)
    trainer.fit(module, data)
    weights = get_model_state_dict(network, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    torch.save({"rows": keeps.rows, "weights": dict(weights)}, folder / f"rank{trainer.global_rank}.pt")


def run_spread(folder: Path, name: str) -> None:
    torch.set_num_threads(1)
    for case in SPREADS[name].cases:
        for accumulation in ACCUMULATIONS:
            place = folder / case / f"{name}x{accumulation}"
            place.mkdir(parents=True, exist_ok=True)
            run(place, SPREADS[name], accumulation, **CASES[case])


def run_all(folder: Path) -> None:
    MusicDataModule("chorales").prepare_data()
    for name, spread in SPREADS.items():
        run_ranks(spread.world, run_spread, folder, name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    folder = tmp_path_factory.mktemp("worlds")
    script = "import sys; from pathlib import Path; from tests.test_any_world_size import run_all; run_all(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", script, str(folder)], cwd=repository, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def result(runs: Path, case: str, spread: str, accumulation: int, rank: int = 0) -> dict[str, Any]:
    return torch.load(runs / case / f"{spread}x{accumulation}" / f"rank{rank}.pt", weights_only=True)  # type: ignore[no-any-return]


def global_rows(runs: Path, case: str, spread: str, accumulation: int) -> torch.Tensor:
    """The rows of all batches and ranks in their order, (rows, window + 1)."""
    ranks = [result(runs, case, spread, accumulation, rank)["rows"] for rank in SPREADS[spread].readers]
    return torch.cat([torch.stack(parts, dim=1).flatten(0, 1) for parts in zip(*ranks, strict=True)])


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((tensor - other[name]).abs().max()) for name, tensor in one.items())


DIVISIONS = [
    (case, name, accumulation)
    for name, spread in SPREADS.items()
    for case in spread.cases
    for accumulation in ACCUMULATIONS
    if (name, accumulation) != ("one", 1)
]
every_division = pytest.mark.parametrize(("case", "spread", "accumulation"), DIVISIONS)


@every_division
def test_the_global_batches_are_the_same(runs: Path, case: str, spread: str, accumulation: int) -> None:
    assert torch.equal(global_rows(runs, case, spread, accumulation), global_rows(runs, case, "one", 1))


@every_division
def test_the_weights_are_the_same_up_to_the_order_of_sums(runs: Path, case: str, spread: str, accumulation: int) -> None:
    whole, divided = (result(runs, case, *division)["weights"] for division in (("one", 1), (spread, accumulation)))
    assert difference(whole, divided) <= (ADAMW_TOLERANCE if case == "AdamW" else TOLERANCE)


@every_division
def test_what_is_logged_is_the_same(runs: Path, case: str, spread: str, accumulation: int) -> None:
    whole, divided = runs / case / "onex1", runs / case / f"{spread}x{accumulation}"
    assert logged(divided, "train/tokens") == logged(whole, "train/tokens")
    for key in ("train/loss", "train/gradient_norm"):
        assert logged(divided, key) == pytest.approx(logged(whole, key), rel=LOSS_TOLERANCE, abs=LOSS_TOLERANCE)
    assert len(logged(whole, "train/loss")) == STEPS


def test_the_comparison_would_notice(runs: Path) -> None:
    """Rows differ in padding, training moves the weights, and clipping changes them."""
    padding = (global_rows(runs, "padded", "one", 1) == VoiceGrid().pad_id).sum(1)
    assert padding.max() > WINDOW // 2 > padding.min() == 0
    weights = {case: result(runs, case, "one", 1)["weights"] for case in CASES}
    torch.manual_seed(0)
    start = Decoder(VoiceGrid().vocab_size, d_model=16, num_layers=1, num_heads=2, dropout=0.0, max_context=WINDOW).state_dict()
    assert all(difference(each, start) > 1000 * TOLERANCE for each in weights.values())
    for case in ("clipped to a norm", "clipped by value", "by tokens"):
        assert difference(weights[case], weights["padded"]) > 1000 * TOLERANCE
