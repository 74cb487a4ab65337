"""torch.compile that never stands in training's way: in place, cached over runs, and given up with a message where it fails."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from musictrain.data.corpus_store import cache_root

log = logging.getLogger(__name__)

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
PLAIN = (Tensor, bool, int, float, str, type(None))


def compile_in_place(
    network: nn.Module, *, blocks: Sequence[str] = (), dynamic: bool | None = None, backend: str | Any = "inductor"
) -> None:
    """Compile a network for training; it stays the same object with the same names in its state.

    Compiled is what training calls: with gradients, and with tensors and plain values as arguments. Validation and sampling, and so every
    call with a cache, run as they did before, and copies and pickles of the network are not compiled.

    Compilation happens at the first call and takes from seconds to a minute. The first length of a row is compiled for itself; when
    another comes, once more for every length (``dynamic`` None, torch's own way). What was compiled is kept over runs in ``compiled``
    of the music cache, unless ``TORCHINDUCTOR_CACHE_DIR`` names another folder.

    Where it fails (no C++ compiler, something that cannot be compiled in forward or backward, too many kinds of input) one warning says
    why, and training goes on without: with the same weights, and with the random numbers of before the attempt, so that the step is the
    one it would have been uncompiled. Errors of the network itself are raised as they are.

    Two runs of the same program give the same bits on one machine. With rows of changing length that needs ``dynamic=True``: otherwise
    a resumed run begins with the length at hand, and what is compiled for one length rounds differently from what is for all.

    Args:
        network: the network; whoever called its own ``compile`` keeps what that made.
        blocks: names of lists of blocks in it, such as ``("blocks",)``: each block is compiled by itself. For sharded training, before
            the strategy wraps them; quicker, since equal blocks share what was compiled.
        dynamic: True compiles for all lengths at once, False for each length anew.
        backend: torch's name of a compiler.

    Raises:
        ValueError: if there is no list of modules by one of the names.
    """
    os.environ.setdefault(CACHE_VARIABLE, str(cache_root() / "compiled"))
    _tell_of_recurrent_layers(network)
    attempt = Attempt(type(network).__name__)
    for module in _modules_of(network, blocks):
        if module._compiled_call_impl is None:
            # Its hooks are inside, those of FSDP among them.
            compiled = torch.compile(module._call_impl, dynamic=dynamic, backend=backend)
            module._compiled_call_impl = CompiledCall(module, compiled, attempt)  # type: ignore[assignment]


def _tell_of_recurrent_layers(network: nn.Module) -> None:
    names = [name for name, module in network.named_modules() if isinstance(module, nn.RNNBase)]
    if names:
        log.warning(
            "torch.compile leaves torch's own recurrent layers as they are, and what calls them: %s has %s, so expect little gain.",
            type(network).__name__,
            ", ".join(names),
        )


def _modules_of(network: nn.Module, blocks: Sequence[str]) -> list[nn.Module]:
    if not blocks:
        return [network]
    found: list[nn.Module] = []
    lists = {name: module for name, module in network.named_modules() if isinstance(module, nn.ModuleList | nn.Sequential)}
    for name in blocks:
        if name not in lists:
            raise ValueError(f"{type(network).__name__} has no list of blocks {name!r} to compile; its lists are {sorted(lists)}.")
        found += lists[name].children()
    return found


class Attempt:
    """Whether compiling still goes on; the blocks of a network share it.

    Args:
        name: of the network, for the message.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.given_up = False

    def give_up(self, error: Exception) -> None:
        """From now on nothing is compiled; say why, once."""
        if not self.given_up:
            self.given_up = True
            log.warning(
                "torch.compile gave up on %s (%s). Training goes on without it: the same weights, the speed of before. "
                "Mend that, or leave `compile` out.",
                self.name,
                reason_of(error),
            )


class CompiledCall:
    """What a module does when it is called: the compiled program, or the module as it is where that is not meant or has failed."""

    def __init__(self, module: nn.Module, compiled: Any, attempt: Attempt) -> None:
        self.module, self.compiled, self.attempt = module, compiled, attempt
        self._known: set[Hashable] = set()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.attempt.given_up or not torch.is_grad_enabled() or not all(isinstance(value, PLAIN) for value in (*args, *kwargs.values())):
            return self.module._call_impl(*args, **kwargs)
        kind = self._kind(args, kwargs)
        return self.compiled(*args, **kwargs) if kind in self._known else self._first(kind, args, kwargs)

    def _first(self, kind: Hashable, args: Any, kwargs: Any) -> Any:
        """A call that may have to compile."""
        random_states = _random_states()
        try:
            with _all_at_once():
                result = self.compiled(*args, **kwargs)
        except Exception as error:
            _set_random_states(random_states)
            result = self.module._call_impl(*args, **kwargs)  # if the network itself is at fault, this says so
            self.attempt.give_up(error)
            return result
        self._known.add(kind)
        return result

    def _kind(self, args: Any, kwargs: Any) -> Hashable:
        """What a compiled program may depend on."""
        values = (*args, *sorted(kwargs.items()))
        device = next((value.device.type for value in args if isinstance(value, Tensor)), "cpu")
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        described = ((value.shape, value.dtype, value.requires_grad) if isinstance(value, Tensor) else value for value in values)
        return (*described, self.module.training, precision)


@contextlib.contextmanager
def _all_at_once() -> Iterator[None]:
    """Compile the backward with the forward, so that one place finds out what fails; and fail where torch would stop compiling silently."""
    import torch._dynamo.config
    import torch._functorch.config

    with (
        torch._functorch.config.patch(force_non_lazy_backward_lowering=True),
        torch._dynamo.config.patch(fail_on_recompile_limit_hit=True),
    ):
        yield


def _random_states() -> tuple[Tensor, list[Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _set_random_states(states: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(states[0])
    if states[1]:
        torch.cuda.set_rng_state_all(states[1])


def reason_of(error: Exception) -> str:
    """The line of an error that says what went wrong.

    >>> reason_of(RuntimeError("backend='inductor' raised:\\nInvalidCxxCompiler: No working C++ compiler found"))
    'InvalidCxxCompiler: No working C++ compiler found'
    >>> reason_of(KeyError())
    'KeyError'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.strip().endswith("raised:")]
    return lines[0] if lines else type(error).__name__
