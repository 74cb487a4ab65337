"""What is done next, what may not change, and what beginning anew keeps; the state survives being written and read."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.runs.eta import TimeLeft
from musictrain.stages.planning import Seen, anew, changed_keys, check_unchanged, ended, next_stage, stopped_at, what_to_do
from musictrain.stages.progress import Course, left_of_all, share_of_all
from musictrain.stages.protocol import ProtocolError
from musictrain.stages.state import BEGUN, FINISHED, STOPPED, Record, State, read_state, write_state
from tests.stages.small_protocols import protocol_of, resolved

RECORDS = st.builds(
    Record,
    stage=st.sampled_from("abc"),
    run=st.text(min_size=1, max_size=5),
    told=st.dictionaries(st.text(max_size=3), st.none() | st.integers() | st.lists(st.booleans()), max_size=2),
    state=st.sampled_from([BEGUN, FINISHED, STOPPED]),
    ended=st.none() | st.floats(0, 9),
    references=st.dictionaries(st.just("stage:a"), st.text(max_size=4)),
)


@given(st.lists(RECORDS, max_size=3, unique_by=lambda record: record.stage), st.lists(RECORDS, max_size=2), st.sampled_from(["", "b"]))
def test_a_state_that_was_written_is_read_again(records: list[Record], replaced: list[Record], start: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        state = State(tuple(records), tuple(replaced), start)
        write_state(Path(folder) / "state.json", state)
        assert read_state(Path(folder) / "state.json") == state


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema": 1, "records": [{"stage": "a"}], "replaced": [], "anew_from": ""}'])
def test_a_state_that_cannot_be_understood_is_an_error_and_no_new_beginning(content: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(ProtocolError, match=r"state\.json"):
        read_state(tmp_path / "state.json")
    assert read_state(tmp_path / "none.json") == State()


def test_a_state_of_another_version_says_so(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"schema": 7}))
    with pytest.raises(ProtocolError, match=r"schema 7, here 1"):
        read_state(tmp_path / "state.json")


def states(*told: str) -> State:
    return State(tuple(Record("abc"[place], f"run-{place}", state=state) for place, state in enumerate(told)))


def name_of(stage: Any) -> str:
    return "" if stage is None else stage.name


def test_stages_are_done_one_after_the_other() -> None:
    protocol = protocol_of({}, {}, {})
    courses = [(), (BEGUN,), (FINISHED,), (FINISHED, BEGUN), (FINISHED, FINISHED), (FINISHED,) * 3]
    assert [name_of(next_stage(protocol, states(*told))) for told in courses] == ["a", "a", "b", "b", "c", ""]


def test_what_a_guard_has_stopped_ends_all_of_it_unless_it_may_go_on() -> None:
    record = states(FINISHED, STOPPED)
    assert name_of(stopped_at(protocol_of({}, {}, {}), record) and next_stage(protocol_of({}, {}, {}), record)) == "b"
    patient = protocol_of({}, {"go_on": True}, {})
    assert (stopped_at(patient, record), name_of(next_stage(patient, record))) == (None, "c")


def test_a_run_that_has_ended_unseen_is_noted_and_any_other_goes_on_where_it_can() -> None:
    assert what_to_do(Seen()) == "begin"
    assert what_to_do(Seen(resumable=True)) == "resume"
    assert what_to_do(Seen(resumable=True, done=True)) == "note"
    assert ended(Record("a", "r"), 5.0, by_guard=True, reason="copies").state == STOPPED
    assert ended(Record("a", "r"), 5.0, by_guard=False, reason="patience").state == FINISHED


def begun(protocol: Any, folder: Path, count: int) -> State:
    stages = resolved(protocol, folder)
    return State(tuple(Record(name, f"run-{name}", stages[name].told(), FINISHED, ended=1.0) for name in list(stages)[:count]))


def test_a_stage_that_is_done_may_not_change_and_a_later_one_may(tmp_path: Path) -> None:
    state = begun(protocol_of({}, {}, {}), tmp_path, 2)
    for told in ({"config": {"seed_everything": 5}}, {"budget": {"steps": 70}}, {"hand_over": "last"}, {"extends": "chorales"}):
        later = protocol_of({}, {}, told)
        check_unchanged(later, resolved(later, tmp_path), state)
        now = protocol_of({}, told, {})
        with pytest.raises(ProtocolError, match=r"Stage 'b' is done, and its configuration has changed since: .* was .*--from b"):
            check_unchanged(now, resolved(now, tmp_path), state)


def test_the_keys_that_have_changed_are_named(tmp_path: Path) -> None:
    state = begun(protocol_of({}, {}), tmp_path, 2)
    now = protocol_of({}, {"budget": {"steps": 7}, "hand_over": "last", "config": {"trainer": {"devices": 2}}})
    with pytest.raises(ProtocolError) as error:
        check_unchanged(now, resolved(now, tmp_path), state)
    assert "trainer.max_steps was 100, is 7; hand_over.version was 'best', is 'last'" in str(error.value)
    assert "devices" not in str(error.value), "over which devices it is spread does not change what is trained"
    assert list(changed_keys({"a": (1, 2)}, {"a": [1, 2]})) == []


def test_stages_that_have_begun_keep_their_places(tmp_path: Path) -> None:
    state = begun(protocol_of({}, {}), tmp_path, 2)
    for now, message in (
        (protocol_of({}, {"name": "new"}, {"name": "b"}), "Stage 2 has begun as 'b', and 'new' stands there now"),
        (protocol_of({}), "Stage 2 has begun as 'b', and it is gone"),
    ):
        with pytest.raises(ProtocolError, match=message):
            check_unchanged(now, resolved(now, tmp_path), state)


def test_beginning_anew_keeps_what_it_replaces_and_the_same_demand_goes_on_with_it() -> None:
    protocol = protocol_of({}, {}, {})
    done = states(FINISHED, FINISHED, FINISHED)
    once = anew(done, protocol, "b")
    assert ([each.stage for each in once.records], [each.stage for each in once.replaced]) == (["a"], ["b", "c"])
    assert name_of(next_stage(protocol, once)) == "b"
    midway = once.with_record(Record("b", "run-new"))
    assert anew(midway, protocol, "b") == midway, "killed and typed again, it goes on"
    finished = replace(once, records=(*once.records, Record("b", "n", state=FINISHED), Record("c", "m", state=FINISHED)))
    again = anew(finished, protocol, "b")
    assert [each.run for each in again.replaced] == ["run-1", "run-2", "n", "m"]
    assert [each.stage for each in anew(midway, protocol, "a").records] == []


def test_beginning_anew_needs_what_comes_before() -> None:
    with pytest.raises(ProtocolError, match=r"stage 'a' before it is not done yet"):
        anew(states(BEGUN), protocol_of({}, {}), "b")
    with pytest.raises(ProtocolError, match=r"no stage 'bb'. Did you mean 'b'"):
        anew(states(FINISHED), protocol_of({}, {}), "bb")


def test_time_is_left_for_all_stages_by_the_pace_of_the_last() -> None:
    running = Course(step=50, steps=100, elapsed_seconds=50, left=TimeLeft(50, 40, 60), tokens_per_step=10)
    left = left_of_all([running, Course(steps=10, tokens_per_step=20)])
    assert left == TimeLeft(50 + 20, 40 + 10, 60 + 40)
    assert left_of_all([running, Course(steps=100, limit_seconds=5)]) == TimeLeft(55, 42.5, 70)
    assert left_of_all([running, Course()]) is None, "a rule alone ends it"
    assert left_of_all([Course(steps=10)]) is None, "no pace yet"
    assert left_of_all([running, Course(steps=10, earlier_seconds=30)]) == TimeLeft(80, 55, 120)
    assert share_of_all([running, Course(limit_seconds=100)]) == 0.25
    assert left_of_all([Course(done=True, step=5, elapsed_seconds=9)]) == TimeLeft(0, 0, 0)
