"""One incident is one alert: when it begins, and when it is over."""

from __future__ import annotations

from musictrain.health import Finding
from musictrain.health.detector import Incidents, worst_of


def finding(step: int, score: float = 1.0, where: str = "a") -> Finding:
    return Finding("kind", step, "it", where, score, 0.0, score, "")


def test_an_incident_is_told_when_it_begins_and_when_it_is_over() -> None:
    incidents = Incidents(calm=2)
    found = {1: 1.0, 2: 5.0, 4: 2.0}
    said = [incidents.take(step, {"a": finding(step, found[step])} if step in found else {}) for step in range(8)]
    assert [step for step, one in enumerate(said) if one] == [1, 6]
    over = said[6]
    assert over is not None
    assert (over.over, over.began, over.step, over.score, over.details["over_at"]) == (True, 1, 4, 5.0, 6)


def test_a_look_without_trouble_is_not_calm_yet() -> None:
    incidents = Incidents(calm=2)
    said = [incidents.take(step, {"a": finding(step)} if step % 2 == 0 else {}) for step in range(20)]
    assert [one is not None for one in said] == [True] + [False] * 19


def test_a_new_place_is_a_new_incident_and_the_end_waits_for_all() -> None:
    incidents = Incidents(calm=1)
    assert incidents.take(0, {"a": finding(0)})
    other = incidents.take(1, {"a": finding(1), "b": finding(1, where="b")})
    assert other is not None
    assert other.where == "b"
    assert incidents.take(2, {"b": finding(2, where="b")}) is None
    end = incidents.take(3, {})
    assert end is not None
    assert end.over


def test_the_worst_place_speaks_and_names_the_others() -> None:
    told = worst_of({"a": finding(0, 1.0, "a"), "b": finding(0, 9.0, "b"), "c": finding(0, 2.0, "c")})
    assert told.where == "b"
    assert told.details["others"] == ["a", "c"]


def test_facts_are_added_to_an_open_incident_alone() -> None:
    incidents = Incidents(calm=1)
    incidents.note("a", stayed=True)
    assert incidents.open == {}
    incidents.take(0, {"a": finding(0)})
    incidents.note("a", stayed=True)
    end = incidents.take(1, {})
    assert end is not None
    assert end.details["stayed"] is True
