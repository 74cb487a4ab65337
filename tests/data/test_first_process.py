"""One process of a machine makes what all need: its errors, its death and its slowness do not leave the others waiting."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from musictrain.data import first_process
from musictrain.data.first_process import build_first
from musictrain.strategies.lost_peer import lost_peer
from tests.ports import free_port
from tests.strategies.ranks import fork

RANKS = 3


def take_part(folder: Path, scenario: str) -> None:
    """One rank of a scenario; what happened to it is left in a file."""
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo", timeout=timedelta(seconds=300))
    first_process.FIRST_WORD_SECONDS = first_process.NEXT_WORD_SECONDS = 0.1
    said: list[str] = []
    seen: dict[str, Any] = {"said": said, "error": None}
    build, builders, options = SCENARIOS[scenario]
    try:
        build_first(lambda: build(folder), is_builder=rank in builders, what="make it", says=rank < 2, say=said.append, **options)
        seen["made"] = (folder / "made").read_text()
    except Exception as error:
        seen |= {"error": f"{type(error).__name__}: {error}", "lost": lost_peer(error)}
    (folder / f"{scenario}_{rank}.json").write_text(json.dumps(seen))
    if scenario == "too slow" and rank == 0:
        time.sleep(0.5)


def slowly(folder: Path) -> None:
    time.sleep(0.7)
    (folder / "made").write_text("by the first")


def much_too_slowly(folder: Path) -> None:
    time.sleep(8)


def wrongly(folder: Path) -> None:
    raise ValueError("there is no such music")


def on_one_of_two(folder: Path) -> None:
    if os.environ["RANK"] == "2":
        raise PermissionError("the disk cannot be written")


def killed(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


SCENARIOS: dict[str, tuple[Callable[[Path], None], tuple[int, ...], dict[str, Any]]] = {
    "slow": (slowly, (0,), {}),
    "too slow": (much_too_slowly, (0,), {"wait_minutes": 2 / 60}),
    "wrong": (wrongly, (0,), {}),
    "wrong on one": (on_one_of_two, (0, 2), {}),
    "killed": (killed, (0,), {}),
}


def play_all(folder: Path) -> None:
    """Every scenario with ranks of its own, none of which may outlive two minutes."""
    for scenario in SCENARIOS:
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(RANKS)}
        children = [fork(take_part, (folder, scenario), {**shared, "RANK": str(rank)}) for rank in range(RANKS)]
        end = time.monotonic() + 120
        while children and time.monotonic() < end:
            children = [child for child in children if not os.waitpid(child, os.WNOHANG)[0]]
            time.sleep(0.02)
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Callable[[str], list[dict[str, Any]]]:
    """What each rank that lived saw in a scenario, by rank."""
    folder = tmp_path_factory.mktemp("first")
    script = "import sys; from pathlib import Path; from tests.data.test_first_process import play_all; play_all(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", script, str(folder)], cwd=repository, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]

    def of(scenario: str) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{scenario}_*.json"))]

    return of


@pytest.mark.slow
def test_the_others_find_what_the_first_has_made(seen):
    assert [rank["made"] for rank in seen("slow")] == ["by the first"] * RANKS


@pytest.mark.slow
def test_one_of_those_who_wait_says_for_whom_and_how_long_at_most(seen):
    first, second, third = (rank["said"] for rank in seen("slow"))
    assert second[0].startswith("rank 1 waits for rank 0 to make it (")
    assert second[0].endswith(" s; at most 60 minutes)")
    assert len(second) > 2
    assert first == third == []


@pytest.mark.slow
def test_an_error_of_the_first_reaches_all_at_once(seen):
    first, *others = (rank["error"] for rank in seen("wrong"))
    assert first == "ValueError: there is no such music"
    assert others == ["ValueError: rank 0 could not make it: there is no such music"] * 2


@pytest.mark.slow
def test_an_error_on_one_machine_ends_the_builder_of_another(seen):
    *others, failed = (rank["error"] for rank in seen("wrong on one"))
    assert failed == "PermissionError: the disk cannot be written"
    assert others == ["ValueError: rank 2 could not make it: PermissionError: the disk cannot be written"] * 2


@pytest.mark.slow
def test_who_has_waited_long_enough_says_what_to_do(seen):
    first, *others = seen("too slow")
    assert first["error"] is not None
    assert any("waits for rank 0 to make it: longer than 0.0333333 minutes" in rank["error"] for rank in others)
    # The second to give up may only see that the first has gone.
    assert all("wait_minutes" in rank["error"] or rank["lost"] for rank in others)


@pytest.mark.slow
def test_when_the_first_is_killed_the_others_end(seen):
    others = seen("killed")
    assert len(others) == RANKS - 1
    assert all(rank["lost"] for rank in others)


def test_a_process_alone_just_builds():
    built: list[int] = []
    build_first(lambda: built.append(1), is_builder=False, what="make it")
    assert built == [1]
    with pytest.raises(ValueError, match=r"^no$"):
        build_first(lambda: (_ for _ in ()).throw(ValueError("no")), is_builder=True, what="make it")
