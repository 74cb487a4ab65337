"""Which versions stay: examples by hand, and laws over every folder there could be."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.checkpoints.catalog import Version, best_versions
from musictrain.checkpoints.retention import Decision, Retention, decide
from tests.checkpoints.some_versions import numbers, version

NONE = Retention(newest=0, best=0)
METRICS = ("val/loss", "val/groove")


def removed(versions: list[Version], **rules: Any) -> list[int]:
    return numbers(decide(versions, Retention(**{"newest": 0, "best": 0, **rules})).remove)


def whys(decision: Decision) -> dict[int, str]:
    return {each.number: decision.why(each) for each in (*decision.keep, *decision.thin)}


def test_the_newest_ones_stay_and_the_older_ones_go() -> None:
    decision = decide([version(number) for number in (1, 2, 3, 4, 5)], Retention(newest=3))
    assert numbers(decision.keep) == [3, 4, 5]
    assert numbers(decision.remove) == [1, 2]
    assert decision.thin == ()
    assert whys(decision) == {3: "newest", 4: "newest", 5: "newest"}
    assert decision.why(version(1)) == ""


def test_newer_means_more_steps_and_not_a_later_clock_or_a_higher_number() -> None:
    versions = [version(1, 900, created=5.0), version(2, 100, created=9e9), version(3, 100, created=7.0)]
    assert removed(versions, newest=1) == [2, 3]
    assert removed(versions, newest=2) == [2]


def test_the_best_by_every_metric_stay_each_in_its_own_direction() -> None:
    versions = [
        version(1, metrics={"val/loss": 0.1, "val/groove": 0.5}),
        version(2, metrics={"val/loss": 0.3, "val/groove": 0.9}),
        version(3, metrics={"val/loss": 0.2, "val/groove": 0.1}),
        version(4, metrics={"val/loss": float("nan"), "val/groove": float("inf")}),
        version(5),
    ]
    decision = decide(versions, Retention(newest=1, best=1, metrics={"val/loss": "min", "val/groove": "max"}))
    assert whys(decision) == {1: "best val/loss", 2: "best val/groove", 5: "newest"}
    two_best = decide(versions, Retention(newest=1, best=2, metrics={"val/loss": "min"}))
    assert numbers(two_best.keep) == [1, 3, 5]


def test_of_equally_good_versions_the_newer_one_is_the_best() -> None:
    assert removed([version(1, loss=0.5), version(2, loss=0.5), version(3)], newest=1, best=1) == [1]


def test_every_so_many_steps_the_first_version_at_or_after_the_multiple_stays() -> None:
    versions = [version(number, step) for number, step in enumerate((0, 400, 999, 1_000, 1_500, 2_600, 2_700, 3_999, 5_000), start=1)]
    decision = decide(versions, Retention(newest=1, best=0, every_n_steps=1_000))
    assert [each.step for each in decision.keep] == [1_000, 2_600, 3_999, 5_000]
    assert decision.why(versions[3]) == "every 1,000 steps"


def test_every_so_many_minutes_the_first_version_of_the_stretch_stays_but_not_the_random_weights_of_the_start() -> None:
    minutes = (30.0, 31.0, 44.0, 45.5, 59.0, 60.0, 200.0)
    versions = [version(number, 10 * number, created=60 * minute) for number, minute in enumerate(minutes)]
    decision = decide(versions, Retention(newest=1, best=0, every_n_minutes=15))
    assert [each.seal.created / 60 for each in decision.keep if each.seal] == [31.0, 45.5, 60.0, 200.0]
    assert decision.why(versions[1]) == "every 15 minutes"


def test_a_clock_without_a_time_is_one_stretch_of_its_own() -> None:
    versions = [version(1, created=float("inf")), version(2, created=float("inf")), version(3, created=100.0), version(4, created=110.0)]
    assert removed(versions, every_n_minutes=5.0) == [2]


def test_an_unhealthy_first_version_of_a_stretch_leaves_its_place_to_the_next_healthy_one() -> None:
    versions = [version(1, 1_000, ill="not finite"), version(2, 1_100), version(3, 1_900), version(4, 1_950)]
    assert removed(versions, every_n_steps=1_000) == [1, 3]


def test_an_unhealthy_version_evicts_no_healthy_one_and_stays_only_as_the_newest_to_go_on_from() -> None:
    healthy = [version(number) for number in (1, 2, 3)]
    spike = version(4, ill="inside a loss spike", loss=0.0)
    decision = decide([*healthy, spike], Retention(newest=3))
    assert numbers(decision.keep) == [1, 2, 3, 4]
    assert decision.why(spike) == "newest to go on from"
    assert numbers(decide([*healthy, spike, version(5)], Retention(newest=3)).remove) == [1, 4]


def test_after_weights_that_are_not_finite_the_newest_finite_ones_stay_to_go_on_from() -> None:
    versions = [version(1), version(2, ill="loss spike"), version(3, ill="loss spike"), version(4, ill="weights not finite")]
    assert removed(versions, newest=1) == [2]


def test_the_newest_good_one_stays_even_if_no_rule_keeps_anything() -> None:
    decision = decide([version(1), version(2), version(3, ill="loss spike")], NONE)
    assert whys(decision) == {2: "newest good", 3: "newest to go on from"}


def test_what_cannot_be_understood_is_left_alone_and_counts_for_nothing() -> None:
    versions = [version(1), version(2), version(3, readable=False), version(4, readable=False)]
    decision = decide(versions, Retention(newest=2))
    assert numbers(decision.keep) == [1, 2, 3, 4]
    assert decision.why(versions[3]) == "its seal cannot be read"


def test_pinned_and_protected_versions_stay_and_the_mapping_says_why() -> None:
    versions = [version(1, None, "pinned"), version(2), version(3), version(4), version(5)]
    decision = decide(versions, Retention(newest=1), {2: "parent of a running job"})
    assert whys(decision) == {1: "pinned", 2: "parent of a running job", 5: "newest"}
    assert whys(decide(versions, Retention(newest=1), [3, 99])) == {1: "pinned", 3: "in use", 5: "newest"}


def test_averages_and_weights_that_the_user_made_stay_and_take_nobodys_place() -> None:
    versions = [version(1, loss=0.5), version(2), version(3, kind="average", loss=0.1), version(4, kind="weights", loss=0.2)]
    decision = decide(versions, Retention(newest=1, best=1))
    assert whys(decision) == {1: "best val/loss", 2: "newest", 3: "made by hand (average)", 4: "made by hand (weights)"}


def test_sharded_versions_count_as_whole_ones() -> None:
    versions = [version(number, kind="sharded", loss=float(number)) for number in range(1, 9)]
    assert numbers(decide(versions, Retention(newest=2, best=1)).keep) == [1, 7, 8]
    decision = decide(versions, Retention(newest=2, best=1, thin_after=1))
    assert (numbers(decision.keep), numbers(decision.thin)) == ([7, 8], [1])


def test_old_versions_kept_only_for_a_metric_or_by_the_step_are_thinned() -> None:
    versions = [version(1, loss=0.1), version(2, loss=0.9), version(5, None, "pinned", loss=0.2), version(7), version(8)]
    rules = Retention(newest=2, best=3, every_n_steps=20, thin_after=3)
    decision = decide(versions, rules)
    assert numbers(decision.thin) == [1, 2]
    assert numbers(decision.keep) == [5, 7, 8]
    assert decision.why(versions[1]) == "best val/loss, every 20 steps"
    assert decide(versions, Retention(newest=2, best=3, thin_after=0)).thin == ()
    assert numbers(decide(versions, rules, protected=[1]).thin) == [2]


@pytest.mark.parametrize(("age", "thinned"), [(3, []), (4, [1])])
def test_thinning_starts_once_more_than_so_many_versions_are_newer(age: int, thinned: list[int]) -> None:
    versions = [version(1, loss=0.1), version(1 + age), version(99, 999, ill="loss spike")]
    assert numbers(decide(versions, Retention(newest=1, thin_after=3)).thin) == thinned


def test_a_thinned_version_stays_as_long_as_its_reason_does_and_is_no_version_to_go_on_from() -> None:
    versions = [version(1, None, "thin", loss=0.1), version(2, None, "thin", loss=0.2), version(3), version(4, 40, "thin")]
    decision = decide(versions, Retention(newest=2, best=1, thin_after=1))
    assert whys(decision) == {1: "best val/loss", 3: "newest"}
    assert numbers(decision.remove) == [2, 4]
    assert decision.thin == ()


def test_keep_all_removes_and_thins_nothing() -> None:
    versions = [version(number, loss=float(number)) for number in range(9)]
    decision = decide(versions, Retention(newest=1, thin_after=1, keep_all=True))
    assert numbers(decision.keep) == list(range(9))
    assert decision.why(versions[0]) == "all are kept, best val/loss"


def test_nothing_comes_of_nothing() -> None:
    assert decide([], Retention()) == Decision((), (), (), {})


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"newest": -1}, r"newest=-1, expected a whole number from 0 on"),
        ({"newest": 2.5}, r"newest=2\.5, expected a whole number"),
        ({"best": True}, r"best=True, expected a whole number"),
        ({"every_n_steps": "many"}, r"every_n_steps='many', expected a whole number"),
        ({"every_n_minutes": float("nan")}, r"every_n_minutes=nan, expected a number from 0 on"),
        ({"every_n_minutes": float("inf")}, r"every_n_minutes=inf, expected a number from 0 on"),
        ({"thin_after": -3}, r"thin_after=-3"),
        ({"keep_all": 1}, r"keep_all=1, expected true or false"),
        ({"metrics": "val/loss"}, r"metrics='val/loss', expected names of metrics with min or max"),
        ({"metrics": {"": "min"}}, r"expected names of metrics"),
        ({"metrics": {"val/loss": "mim"}}, r"'mim' for the metric 'val/loss', expected min or max\. Did you mean 'min'\?"),
        ({"metrics": {"val/loss": 1}}, r"1 for the metric 'val/loss', expected min or max\.$"),
    ],
)
def test_rules_that_cannot_work_are_refused_at_once(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Retention(**rules)


def test_deciding_needs_neither_torch_nor_lightning() -> None:
    script = "import sys, musictrain.checkpoints.retention; print({'torch', 'lightning', 'fsspec'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "set()"


# Laws over any folder.

STEPS = st.integers(0, 60)
VALUES = st.sampled_from([0.1, 0.2, 0.3, 0.3, float("nan"), float("inf")])
KINDS = st.sampled_from(["full", "full", "full", "full", "sharded", "average", "weights"])
ILLS = st.sampled_from(["", "", "", "loss spike", "weights not finite"])


@st.composite
def some_version(draw: st.DrawFn, number: int, ill: st.SearchStrategy[str] = ILLS) -> Version:
    tags = draw(st.sampled_from([(), (), (), (), ("pinned",), ("thin",), ("pinned", "thin")]))
    kind = "weights" if "thin" in tags else draw(KINDS)
    metrics = draw(st.dictionaries(st.sampled_from(METRICS), VALUES))
    facts: dict[str, Any] = {"kind": kind, "ill": draw(ill), "metrics": metrics, "created": float(draw(st.integers(0, 4_000)))}
    return version(number, draw(STEPS), *tags, readable=draw(st.integers(0, 9)) > 0, **facts)


@st.composite
def folders(draw: st.DrawFn) -> list[Version]:
    found = draw(st.sets(st.integers(0, 30), max_size=10))
    return [draw(some_version(number)) for number in sorted(found)]


SMALL = st.integers(0, 4)
RULES = st.builds(
    Retention,
    newest=SMALL,
    best=SMALL,
    metrics=st.dictionaries(st.sampled_from(METRICS), st.sampled_from(["min", "max"])),
    every_n_steps=st.sampled_from([0, 1, 7, 20]),
    every_n_minutes=st.sampled_from([0.0, 0.5, 10.0]),
    thin_after=st.sampled_from([0, 1, 5]),
)
PROTECTED = st.sets(st.integers(0, 30), max_size=3)


def untouched(decision: Decision, number: int) -> bool:
    return number in numbers(decision.keep)


@given(folders(), RULES, PROTECTED)
def test_every_version_is_kept_thinned_or_removed_and_what_stays_has_a_reason(
    versions: list[Version], rules: Retention, protected: set[int]
) -> None:
    decision = decide(versions, rules, protected)
    assert sorted(numbers((*decision.keep, *decision.thin, *decision.remove))) == numbers(versions)
    assert all(bool(decision.why(each)) == (each not in decision.remove) for each in versions)


@given(folders(), RULES)
def test_the_newest_good_version_to_go_on_from_is_never_touched(versions: list[Version], rules: Retention) -> None:
    good = [each for each in versions if each.good and each.resumable and not each.thin]
    if good:
        assert untouched(decide(versions, rules), max(good, key=lambda each: (each.step, each.number)).number)


@given(folders(), RULES, PROTECTED)
def test_pinned_protected_unreadable_and_handmade_versions_are_never_touched(
    versions: list[Version], rules: Retention, protected: set[int]
) -> None:
    decision = decide(versions, rules, protected)
    for each in versions:
        handmade = each.seal is not None and each.seal.kind in ("average", "weights") and not each.thin
        if each.pinned or each.number in protected or each.seal is None or handmade:
            assert untouched(decision, each.number)


@given(folders(), RULES)
def test_the_best_by_every_metric_always_stay(versions: list[Version], rules: Retention) -> None:
    stays = set(numbers(versions)) - set(numbers(decide(versions, rules).remove))
    for metric, mode in rules.metrics.items():
        assert {each.number for each in best_versions(versions, metric, mode)[: rules.best]} <= stays


@given(folders(), RULES, PROTECTED)
def test_deciding_on_what_stays_removes_nothing(versions: list[Version], rules: Retention, protected: set[int]) -> None:
    first = decide(versions, rules, protected)
    again = decide([*first.keep, *first.thin], rules, protected)
    assert again.remove == ()
    assert numbers(again.thin) == numbers(first.thin)


@given(folders(), RULES, PROTECTED)
def test_a_thinned_version_stays_and_is_not_thinned_again(versions: list[Version], rules: Retention, protected: set[int]) -> None:
    first = decide(versions, rules, protected)
    thinned = [
        version(each.number, each.step, "thin", metrics=each.seal.metrics, created=each.seal.created)
        for each in first.thin
        if each.seal is not None
    ]
    again = decide([*first.keep, *thinned], rules, protected)
    assert (again.thin, again.remove) == ((), ())


@given(folders(), RULES, PROTECTED, st.randoms(use_true_random=False))
def test_the_order_of_the_list_does_not_matter(
    versions: list[Version], rules: Retention, protected: set[int], order: random.Random
) -> None:
    shuffled = order.sample(versions, len(versions))
    assert decide(shuffled, rules, protected) == decide(versions, rules, protected)


@given(folders(), RULES, some_version(31, ill=st.sampled_from(["loss spike", "weights not finite"])))
def test_an_unhealthy_version_more_changes_nothing_for_a_healthy_one(versions: list[Version], rules: Retention, ill: Version) -> None:
    before, after = decide(versions, rules), decide([*versions, ill], rules)
    for kind in ("keep", "thin", "remove"):
        healthy = [[each.number for each in getattr(decision, kind) if each.good] for decision in (before, after)]
        assert healthy[0] == healthy[1]


@given(folders(), RULES)
def test_looser_rules_remove_no_more(versions: list[Version], rules: Retention) -> None:
    looser = Retention(rules.newest + 1, rules.best + 1, rules.metrics, rules.every_n_steps, rules.every_n_minutes, rules.thin_after)
    assert set(numbers(decide(versions, looser).remove)) <= set(numbers(decide(versions, rules).remove))


@given(folders(), RULES)
def test_nothing_that_is_needed_to_go_on_is_thinned(versions: list[Version], rules: Retention) -> None:
    for each in decide(versions, rules).thin:
        assert each.good
        assert each.seal is not None
        assert each.seal.kind in ("full", "sharded")
        assert not each.tags
