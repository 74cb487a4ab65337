"""What the first process decides before the processes of a run have found each other, the others learn from it.

Which run to go on with, and from which version, is looked up on a disk. Each process for itself might see another state of it: one looks
later than another, a disk is not the same on all machines, a file is read wrongly once. They would go on from different steps, and hang.

torchrun and SLURM start the processes: the decision travels through the store at which they are going to meet. Lightning starts them from
the first one: it is in their environment.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from musictrain.cli.exits import CommandError, UsageError
from musictrain.runs import RunNotFoundError

# The first process may have to read some versions through before it finds one that verifies.
PATIENCE = timedelta(minutes=30)
SECONDS_TO_BE_HEARD = 20.0
VARIABLE = "MUSICTRAIN_DECIDED"
# The store of the run lives as long as somebody in the first process holds it.
_stores: dict[tuple[str, int], Any] = {}


@dataclass(frozen=True)
class Place:
    """This process among those that somebody else has started.

    Args:
        rank: its number.
        processes: of the run.
        address: where the first process listens.
        port: where it listens.
        hosts: whether this process has to open the store there; torchrun may have opened one.
        attempt: how often torchrun has started the processes again.
    """

    rank: int
    processes: int
    address: str
    port: int
    hosts: bool
    attempt: str = "0"


def place_of_process() -> Place | None:
    """None where nobody has started several processes from outside."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        rank, opened = int(os.environ["RANK"]), os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        place = Place(rank, int(os.environ["WORLD_SIZE"]), address, port, rank == 0 and not opened, attempt)
        return place if place.processes > 1 else None
    if not os.environ.get("SLURM_NTASKS", "1").isdigit() or int(os.environ.get("SLURM_NTASKS", "1")) < 2:
        return None
    from lightning.fabric.plugins.environments import SLURMEnvironment

    if not SLURMEnvironment.detect() or "SLURM_PROCID" not in os.environ:
        return None
    slurm = SLURMEnvironment()
    return Place(slurm.global_rank(), slurm.world_size(), slurm.main_address, slurm.main_port, slurm.global_rank() == 0)


def first_decides(topic: str, decide: Callable[[], Any], *, is_last: bool = False) -> Any:
    """What ``decide`` gives in the first process of a run, in every one of them.

    Args:
        topic: what is decided on; the same in all processes.
        decide: gives back what JSON can hold.
        is_last: whether the first process ends after it, and waits until all have heard it.

    Raises:
        UsageError, CommandError: what ``decide`` raises, in every process.
        RuntimeError: if the first process does not answer.
    """
    place = place_of_process()
    if place is None:
        return _among_children(topic, decide)
    store, key = _store_of(place), f"musictrain/{topic}/{place.attempt}"
    if place.rank:
        told = store.get(key)
        store.add(f"{key}/heard", 1)
        return _unpacked(told.decode())
    text = _packed(decide)
    store.set(key, text)
    if is_last or "error" in json.loads(text):
        # The store ends with this process.
        _wait_until(lambda: store.add(f"{key}/heard", 0) >= place.processes - 1)
    return _unpacked(text)


def _among_children(topic: str, decide: Callable[[], Any]) -> Any:
    """Alone, or with processes that Lightning starts from the first one, which inherit its environment."""
    known: dict[str, str] = json.loads(os.environ.get(VARIABLE, "{}"))
    if topic in known and os.environ.get("LOCAL_RANK", "0") != "0":
        return _unpacked(known[topic])
    text = _packed(decide)
    os.environ[VARIABLE] = json.dumps({**known, topic: text})
    return _unpacked(text)


def _packed(decide: Callable[[], Any]) -> str:
    try:
        return json.dumps({"decided": decide()})
    except CommandError as error:
        return json.dumps({"error": str(error), "usage": False})
    except (UsageError, RunNotFoundError) as error:
        return json.dumps({"error": str(error), "usage": True})


def _unpacked(text: str) -> Any:
    told = json.loads(text)
    if "error" in told:
        raise (UsageError if told["usage"] else CommandError)(told["error"])
    return told["decided"]


def _store_of(place: Place) -> Any:
    from torch.distributed import TCPStore

    at = (place.address, place.port)
    if at not in _stores:
        # multi_tenant: the group of the run is going to open its store at the same place in the same process.
        _stores[at] = TCPStore(*at, is_master=place.hosts, timeout=PATIENCE, wait_for_workers=False, multi_tenant=True)
    return _stores[at]


def _wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS_TO_BE_HEARD
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
