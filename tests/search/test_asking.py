"""Few questions give the answers that many would, and what is known is not asked again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from musictrain.search.asking import Asking, Refused, value_of
from musictrain.search.identity import identity_of
from musictrain.search.plan import Planned
from musictrain.search.points import Point
from musictrain.search.resolving import add_known, layer_of, read_known, records_of_identities
from musictrain.stages.merging import merged

DEFAULTS: dict[str, dict[str, Any]] = {"SGD": {"lr": 0.1, "momentum": 0.0}, "Lion": {"lr": 0.01, "beta": 0.9}}
OPTIMIZER = "model.init_args.optimizer"
BASE: dict[str, Any] = {
    "seed_everything": 1,
    "model": {"init_args": {"optimizer": {"class_path": "SGD", "init_args": DEFAULTS["SGD"]}, "width": 8, "kind": None}},
    "data": {"class_path": "D", "init_args": {"seed": 1, "window": 4}},
}


class Reader:
    """Reads as fit does: classes by name, their own defaults, whole numbers where fractions are wanted, and no key that a class has not."""

    def __init__(self, *, follows: bool = True, tricky: bool = False) -> None:
        self.follows, self.tricky = follows, tricky

    def read(self, layer: Mapping[str, Any]) -> Mapping[str, Any]:
        layer = copy.deepcopy(dict(layer))
        given_data_seed = value_of(layer, "data.init_args.seed")
        arguments = layer.get("model", {}).get("init_args", {})
        if isinstance(arguments.get("optimizer"), str):
            arguments["optimizer"] = {"class_path": arguments["optimizer"]}
        named = arguments.get("optimizer", {}).get("class_path", "SGD")
        config = copy.deepcopy(BASE)
        config["model"]["init_args"]["optimizer"] = {"class_path": named, "init_args": dict(DEFAULTS[named])}
        config = merged(config, layer)
        optimizer = config["model"]["init_args"]["optimizer"]
        optimizer["init_args"]["lr"] = float(optimizer["init_args"]["lr"])
        if unknown := set(optimizer["init_args"]) - set(DEFAULTS[named]):
            raise Refused(f"{named} has no {sorted(unknown)}")
        if self.follows and given_data_seed is None:
            config["data"]["init_args"]["seed"] = config["seed_everything"]
        if isinstance(config["model"]["init_args"]["kind"], str):
            config["model"]["init_args"]["kind"] = {"class_path": config["model"]["init_args"]["kind"], "init_args": {}}
        if self.tricky and config["model"]["init_args"]["width"] > 50:
            config["data"]["init_args"]["window"] = 1
        return config


def one_by_one(reader: Reader, wanted: list[tuple[Point, int]]) -> list[Planned]:
    found = []
    for point, seed in wanted:
        try:
            found.append(Planned(point, seed, identity_of(reader.read(layer_of(point.values, seed)))))
        except Refused as error:
            found.append(Planned(point, seed, "", str(error)))
    return found


VALUES = st.fixed_dictionaries(
    {},
    optional={
        OPTIMIZER: st.sampled_from(["SGD", "Lion"]),
        f"{OPTIMIZER}.init_args.lr": st.one_of(st.floats(0.001, 1), st.integers(1, 3)),
        f"{OPTIMIZER}.init_args.beta": st.floats(0, 1),
        "model.init_args.width": st.integers(1, 99),
        "model.init_args.kind": st.sampled_from([None, "A", "B"]),
        "data.init_args.seed": st.integers(0, 2),
    },
)


@given(st.lists(VALUES, min_size=1, max_size=12), st.sampled_from([(1,), (0, 5)]), st.booleans(), st.booleans())
def test_the_answers_are_those_of_asking_for_each(every: list[dict[str, Any]], seeds: tuple[int, ...], follows: bool, tricky: bool) -> None:
    reader = Reader(follows=follows, tricky=tricky)
    wanted = [(point, seed) for point in dict.fromkeys(map(Point, every)) for seed in seeds]
    assert Asking(BASE, reader.read, seed_follows=follows).planned(wanted) == one_by_one(reader, wanted)


def test_many_points_are_few_questions() -> None:
    values = [{OPTIMIZER: name, f"{OPTIMIZER}.init_args.lr": 0.1 / (1 + each)} for name in ("SGD", "Lion") for each in range(500)]
    asking = Asking(BASE, Reader().read, seed_follows=True)
    wanted = [(Point(each), seed) for each in values for seed in (0, 1, 2)]
    found = asking.planned(wanted)
    assert asking.questions <= 2 * (1 + 2)
    assert len({each.identity for each in found}) == 3000
    assert found[::97] == one_by_one(Reader(), wanted[::97])


def test_what_all_points_of_a_class_are_refused_for_is_asked_three_times() -> None:
    asking = Asking(BASE, Reader().read, seed_follows=True)
    found = asking.planned([(Point({f"{OPTIMIZER}.init_args.beta": each / 100}), 1) for each in range(100)])
    assert {each.error for each in found} == {"SGD has no ['beta']"}
    assert asking.questions == 4


def test_a_network_that_cannot_be_built_has_no_identity() -> None:
    def refuses(config: Mapping[str, Any]) -> str:
        return "too wide" if config["model"]["init_args"]["width"] > 50 else ""

    asking = Asking(BASE, Reader().read, seed_follows=True, refuses=refuses)
    found = asking.planned([(Point({"model.init_args.width": width}), 1) for width in (8, 64, 16)])
    assert [each.error for each in found] == ["", "too wide", ""]
    assert [bool(each.identity) for each in found] == [True, False, True]


def test_what_was_found_out_is_known_afterwards_and_a_torn_line_is_asked_again(tmp_path: Path) -> None:
    path, points = tmp_path / "points.jsonl", [Point({"a": 0.1}), Point({"a": 1})]
    found = [Planned(point, seed, f"{point.hash}{seed}") for point in points for seed in (0, 1)]
    found[3] = Planned(points[1], 1, "", "cannot be")
    add_known(path, [{"base": "b", "resolved": BASE}, {"space": "s", "points": [dict(point.values) for point in points]}])
    add_known(path, records_of_identities("b", found))
    known = read_known(path)
    assert (known.bases, known.spaces) == ({"b": BASE}, {"s": points})
    assert known.planned("b", points, (0, 1)) == (found, [])
    assert known.planned("other", points, (0,)) == ([], [(point, 0) for point in points])
    path.write_bytes(path.read_bytes()[:-9])
    assert read_known(path).planned("b", points, (0, 1)) == (found[0:3:2], [(points[0], 1), (points[1], 1)])
    add_known(path, records_of_identities("b", found))
    assert read_known(path).planned("b", points, (0, 1)) == (found, [])
