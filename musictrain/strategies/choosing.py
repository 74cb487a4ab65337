"""Which strategy suits a run, from its devices, their memory, its parameters and its rows: a rule in plain Python that says why."""

from __future__ import annotations

from dataclasses import dataclass

from musictrain.suggestions import did_you_mean

WORDS = ("ddp", "fsdp", "tp", "fsdp+tp")
# Weights, gradients and Adam's two moments in 32 bits; activations come on top.
BYTES_PER_PARAMETER = 16
SHARE_FOR_STATE = 0.5


@dataclass(frozen=True)
class Situation:
    """What the choice depends on.

    Args:
        devices: of all nodes together.
        nodes: machines.
        parameters: of the module, trainable or not.
        memory_bytes: of one device; None if nobody knows.
        rows: of a batch over all devices; None if nobody knows.
        tensor_parallel_sizes: over how many devices the network's layers can be split.
    """

    devices: int
    nodes: int = 1
    parameters: int = 0
    memory_bytes: int | None = None
    rows: int | None = None
    tensor_parallel_sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Choice:
    """A strategy by its word, and why.

    Args:
        word: ``ddp``, ``fsdp``, ``tp``, ``fsdp+tp``, or ``one`` for a single device.
        reason: one line for people.
        tensor_parallel_size: devices that share the same rows.
    """

    word: str
    reason: str
    tensor_parallel_size: int = 1


def choose(now: Situation) -> Choice:
    """What ``auto`` stands for.

    One device needs no strategy. Where rows cannot be dealt out, neighbours share them by tensor parallelism, if the network can be split.
    Where every device can hold everything, DDP sends least. Otherwise weights, gradients and optimizer lie in shares.
    """
    if now.devices == 1:
        return Choice("one", "one device")
    if now.rows is not None and now.rows % now.devices and (size := _size_for_rows(now)):
        word = "tp" if size == now.devices else "fsdp+tp"
        return Choice(word, f"{now.rows} rows a batch cannot be dealt out to {now.devices} devices: {size} share the same rows", size)
    state = f"weights, gradients and optimizer of {now.parameters / 1e6:,.1f} M parameters take {_gib(state_bytes(now))}"
    if now.memory_bytes is None:
        return Choice("ddp", f"{now.devices} devices whose memory is not known; {state}")
    if state_bytes(now) <= SHARE_FOR_STATE * now.memory_bytes:
        return Choice("ddp", f"{now.devices} devices, and {state} of the {_gib(now.memory_bytes)} of each")
    return Choice("fsdp", f"{state}, over half of the {_gib(now.memory_bytes)} of a device: they are shared out over {now.devices}")


def _size_for_rows(now: Situation) -> int:
    """The fewest devices that must share rows so that the others divide them; 0 if none will do."""
    assert now.rows is not None
    within_a_node = now.devices // now.nodes
    fitting = [size for size in now.tensor_parallel_sizes if within_a_node % size == 0 and now.rows % (now.devices // size) == 0]
    return min(fitting, default=0)


def state_bytes(now: Situation) -> int:
    """Bytes that weights, gradients and optimizer take on one device that holds them all."""
    return BYTES_PER_PARAMETER * now.parameters


def tensor_parallel_size_of(word: str, now: Situation) -> int:
    """Devices that share rows under a word that was given: all under ``tp``; under ``fsdp+tp`` those of a node, or half of all on one.

    Raises:
        ValueError: if ``fsdp+tp`` is asked for and there are too few devices.
    """
    if word == "tp":
        return now.devices
    if word != "fsdp+tp":
        return 1
    size = now.devices // now.nodes if now.nodes > 1 else now.devices // 2
    if size < 2 or now.devices % size or now.devices // size < 2:
        raise ValueError(
            f"The strategy fsdp+tp needs at least 4 devices, an even number on a node, and there are {now.devices} on {now.nodes} "
            f"node{'s' if now.nodes > 1 else ''}. Use fsdp or tp, or more devices: --trainer.devices 4."
        )
    return size


def check_word(word: str, known: tuple[str, ...] = ()) -> None:
    """Refuse a strategy nobody knows.

    Args:
        word: what was asked for.
        known: further words, Lightning's own.

    Raises:
        ValueError: naming those that exist.
    """
    words = ("auto", *WORDS)
    if word not in words and word not in known:
        hint = did_you_mean(word, words) or f"Known are {', '.join(words)}, Lightning's own, or a class_path."
        raise ValueError(f"There is no strategy {word!r}. {hint}")


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.0f} MiB"
