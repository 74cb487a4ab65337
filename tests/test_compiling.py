"""torch.compile as one key: same names, a message instead of a crash, few compilations, the same bits."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from musictrain.compiling import CACHE_VARIABLE, compile_in_place
from musictrain.models import Decoder, Recurrent
from tests.tiny_runs import Resumable, new_module, new_trainer, random_batches

VOCAB = 16


@pytest.fixture(autouse=True)
def fresh_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "compiled"))
    torch._dynamo.reset()


def decoder(dropout: float = 0.0, num_layers: int = 1) -> Decoder:
    torch.manual_seed(0)
    return Decoder(VOCAB, 8, num_layers, 2, max_context=32, dropout=dropout)


def tokens(time: int = 6) -> Tensor:
    return torch.randint(0, VOCAB, (2, time), generator=torch.Generator().manual_seed(time))


def step(network: nn.Module, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and gradients of a step that begins with the same random numbers."""
    torch.manual_seed(7)
    network.zero_grad()
    logits = network(batch)
    logits.logsumexp(-1).sum().backward()
    return logits.detach(), {name: parameter.grad.clone() for name, parameter in network.named_parameters() if parameter.grad is not None}


def assert_same(one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]]) -> None:
    assert torch.equal(one[0], other[0])
    assert all(torch.equal(gradient, other[1][name]) for name, gradient in one[1].items())
    assert one[1].keys() == other[1].keys()


class Counting:
    """A compiler that leaves everything as it is and counts what it is given."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


def raising(graph: Any, inputs: Any) -> Any:
    torch.rand(5)  # what a failed attempt draws must not change the step
    raise RuntimeError("no machine for this code\nand a long story")


def test_names_do_not_change_and_the_same_is_computed():
    plain, compiled, counting = decoder(), decoder(), Counting()
    compile_in_place(compiled, backend=counting)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(step(compiled, tokens()), step(plain, tokens()))
    assert counting.graphs > 0


def test_a_compiler_that_fails_is_said_once_and_training_goes_on_as_without(caplog):
    plain, compiled = decoder(dropout=0.5), decoder(dropout=0.5)
    compile_in_place(compiled, backend=raising)
    with caplog.at_level(logging.WARNING, logger="musictrain"):
        for time in (6, 8):
            assert_same(step(compiled, tokens(time)), step(plain, tokens(time)))
    (message,) = [record.message for record in caplog.records]
    assert "gave up on Decoder (RuntimeError: no machine for this code)" in message


def test_what_fails_in_the_backward_is_found_in_the_forward(caplog):
    from torch._dynamo.backends.common import aot_autograd

    def leave(graph: Any, inputs: Any) -> Any:
        return graph.forward

    plain, compiled = decoder(dropout=0.5), decoder(dropout=0.5)
    compile_in_place(compiled, backend=aot_autograd(fw_compiler=leave, bw_compiler=raising))
    with caplog.at_level(logging.WARNING, logger="musictrain"):
        assert_same(step(compiled, tokens()), step(plain, tokens()))
    assert "gave up on Decoder" in caplog.text


def test_an_error_of_the_network_itself_is_raised_as_it_is(caplog):
    compiled = decoder()
    compile_in_place(compiled, backend=Counting())
    with pytest.raises(ValueError, match="max_context is 32"):
        compiled(tokens(40))
    assert "gave up" not in caplog.text
    compiled(tokens(6))


def test_too_many_kinds_of_input_are_said(caplog):
    class Kinds(nn.Module):
        def forward(self, values: Tensor, kind: str) -> Tensor:
            return values * len(kind)

    network = Kinds()
    compile_in_place(network, backend=Counting())
    values = torch.ones(3, requires_grad=True)
    with caplog.at_level(logging.WARNING, logger="musictrain"):
        results = [network(values, "x" * number)[0].item() for number in range(1, 15)]
    assert results == list(range(1, 15))
    assert "gave up on Kinds" in caplog.text
    assert "limit" in caplog.text


def test_changing_lengths_are_compiled_at_most_three_times():
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, values: Tensor) -> Tensor:
            return (values[:, :, None] * self.weight).cumsum(1)

    network, counting = Rows(), Counting()
    compile_in_place(network, backend=counting)
    for time in (8, 12, 16, 24, 32, 40, 9, 100):
        assert network(torch.ones(2, time)).shape == (2, time, 4)
    assert counting.graphs <= 3


def test_validation_and_sampling_are_not_compiled():
    network, counting = decoder().eval(), Counting()
    expected = network(tokens()).detach()
    compile_in_place(network, backend=counting)
    with torch.no_grad():
        assert torch.equal(network(tokens()), expected)
    cache = network.start_cache(2)
    logits = torch.cat([network(column, cache=cache) for column in tokens().split(1, dim=1)], 1)
    assert torch.allclose(logits, expected, atol=1e-6)
    assert counting.graphs == 0


def test_copies_and_pickles_are_plain_networks():
    network, counting = decoder(), Counting()
    compile_in_place(network, backend=counting)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert twin._compiled_call_impl is None
        assert_same(step(twin, tokens()), step(decoder(), tokens()))
    assert counting.graphs == 0


def test_blocks_are_compiled_one_by_one():
    plain, network, counting = decoder(num_layers=12), decoder(num_layers=12), Counting()
    compile_in_place(network, blocks=["blocks"], backend=counting)
    assert network._compiled_call_impl is None
    torch.testing.assert_close(step(network, tokens()), step(plain, tokens()))
    assert 0 < counting.graphs < 12, "equal blocks share what was compiled"
    with pytest.raises(ValueError, match=r"no list of blocks 'layers' to compile; its lists are \['blocks'\]"):
        compile_in_place(network, blocks=["layers"])


def test_the_cache_lies_with_the_others_unless_it_is_named(tmp_path, monkeypatch):
    named = os.environ[CACHE_VARIABLE]
    compile_in_place(decoder(), backend=Counting())
    assert os.environ[CACHE_VARIABLE] == named
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("MUSICTRAIN_CACHE", str(tmp_path / "music"))
    compile_in_place(decoder(), backend=Counting())
    assert Path(os.environ[CACHE_VARIABLE]) == tmp_path / "music" / "compiled"


def test_recurrent_layers_are_said_to_stay_as_they_are(caplog):
    network = Recurrent(VOCAB, 8, 8, 1)
    expected = step(network, tokens())
    with caplog.at_level(logging.WARNING, logger="musictrain"):
        compile_in_place(network, backend=raising)
        assert_same(step(network, tokens()), expected)
    assert "Recurrent has recurrent, so expect little gain" in caplog.text


def train_two(folder: Path) -> None:
    """The same two ranks, plain and compiled."""
    for name in ("plain", "compiled"):
        module = new_module(decoder(num_layers=2), optimizer=lambda params: torch.optim.SGD(params, lr=0.1))
        if name == "compiled":
            compile_in_place(module.network, backend="aot_eager")
        trainer = new_trainer(folder / name, devices=2, strategy="ddp_fork", max_epochs=1, use_distributed_sampler=False)
        trainer.fit(module, Resumable(random_batches(4)))
        torch.save(module.state_dict(), folder / f"{name}.pt")


@pytest.mark.slow
def test_two_ranks_learn_the_same_compiled_or_not(tmp_path, repository):
    script = "import sys; from pathlib import Path; from tests.test_compiling import train_two; train_two(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=repository, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "gave up" not in done.stderr
    plain, compiled = (torch.load(tmp_path / f"{name}.pt") for name in ("plain", "compiled"))
    torch.testing.assert_close(compiled, plain)
    assert not torch.equal(plain["network.embedding.weight"], decoder(num_layers=2).embedding.weight), "something was learned"


SCRIPT = """
import sys, logging, torch
logging.basicConfig(level=logging.WARNING, format="%(message)s")
torch.set_num_threads(1)
from torch._dynamo.utils import counters
from musictrain.compiling import compile_in_place
from tests.test_compiling import decoder, step, tokens

network = decoder(dropout=0.5)
compile_in_place(network)
with torch.autocast("cpu", dtype=torch.bfloat16, enabled="bf16" in sys.argv):
    first, again = step(network, tokens()), step(network, tokens())
torch.save((first, again), sys.argv[1])
inductor = counters["inductor"]
print("compiled", inductor["fxgraph_cache_miss"], "found", inductor["fxgraph_cache_hit"])
"""


def run(file: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(file), *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_the_real_compiler_gives_the_same_bits_again_and_finds_its_work_in_the_cache(tmp_path, precision):
    runs = [run(tmp_path / f"{number}.pt", precision) for number in range(2)]
    assert all(done.returncode == 0 for done in runs), runs[0].stderr[-2000:]
    assert "gave up" not in runs[0].stderr
    assert "compiled 0 found" in runs[1].stdout
    assert "compiled 0 found" not in runs[0].stdout
    (first, again), (second, _) = (torch.load(tmp_path / f"{number}.pt") for number in range(2))
    assert_same(first, again)
    assert_same(first, second)
    if precision == "32":
        torch.testing.assert_close(run_plain()[0], run_compiled_without_dropout(tmp_path), atol=1e-5, rtol=1e-4)


def run_plain() -> tuple[Tensor, dict[str, Tensor]]:
    return step(decoder(), tokens())


def run_compiled_without_dropout(folder: Path) -> Tensor:
    script = SCRIPT.replace("dropout=0.5", "dropout=0.0")
    done = subprocess.run([sys.executable, "-c", script, str(folder / "plain.pt")], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return torch.load(folder / "plain.pt")[0][0]


@pytest.mark.slow
def test_without_a_cpp_compiler_training_goes_on(tmp_path):
    done = run(tmp_path / "a.pt", CXX="/nonexistent/g++")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("gave up on Decoder") == 1, done.stderr[-2000:]
    torch.manual_seed(0)
    assert_same(torch.load(tmp_path / "a.pt")[0], step(decoder(dropout=0.5), tokens()))
