"""What people say of a run, and where it came from, is kept whole and said back."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from musictrain.runs import RunFolder
from musictrain.runs.labels import Labels, add_tags, change_labels, read_labels, remove_tags, set_archived, set_note
from musictrain.runs.lineage import RELATIONS, Parent, add_parent, parents_of
from musictrain.runs.one_at_a_time import one_at_a_time


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def test_a_run_nobody_spoke_of_has_no_labels(run: RunFolder) -> None:
    assert read_labels(run) == Labels()
    assert parents_of(run) == []


def test_labels_are_said_back(run: RunFolder) -> None:
    add_tags(run, ["b", " a ", "</script>"])
    set_note(run, " two\nlines ")
    set_archived(run, True)
    assert read_labels(run) == Labels(("</script>", "a", "b"), "two\nlines", True)
    assert remove_tags(run, ["a", "never given"]).tags == ("</script>", "b")
    assert set_archived(run, False) == Labels(("</script>", "b"), "two\nlines")
    assert set_note(run, "").note == ""


@pytest.mark.parametrize("tag", ["", "  ", "a\nb", "\x1b[31mred", "x" * 61, "\u202e"])
def test_tags_are_visible_words(run: RunFolder, tag: str) -> None:
    with pytest.raises(ValueError, match="A tag is 1 to 60 visible characters, got"):
        add_tags(run, ["good", tag])
    assert not run.labels.exists()


@pytest.mark.parametrize("content", ["", "[]", '{"tags": "a"}', '{"tags": [1]}', '{"note": 1}', "\x00"])
def test_labels_that_cannot_be_understood_are_set_aside_before_new_ones(
    run: RunFolder, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    run.labels.write_text(content)
    assert read_labels(run) == Labels()
    assert "shown without labels" in caplog.text
    assert add_tags(run, ["a"]) == Labels(("a",)) == read_labels(run)
    assert run.labels.with_name("labels.json.unreadable").read_text() == content


def test_a_change_that_fails_changes_nothing(run: RunFolder) -> None:
    add_tags(run, ["a"])
    with pytest.raises(ZeroDivisionError, match="division"):
        change_labels(run, lambda labels: Labels(note=str(1 / 0)))
    assert add_tags(run, ["b"]).tags == ("a", "b")


def test_who_waits_too_long_is_told(run: RunFolder) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with one_at_a_time(run.labels):
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    with pytest.raises(TimeoutError, match=r"has been changed by another thread for 0\.01 s"), one_at_a_time(run.labels, 0.01):
        pass
    done.set()
    thread.join(30)
    with one_at_a_time(run.labels, 0.01):
        pass


@pytest.mark.parametrize("relation", RELATIONS)
def test_parents_are_said_back_once(run: RunFolder, relation: str) -> None:
    for _ in range(2):
        add_parent(run, relation, RunFolder(Path("elsewhere/other-run")), version="v000003_step000450", step=450)
    add_parent(run, relation, "another", step=1450)
    assert parents_of(run) == [Parent(relation, "other-run", "v000003_step000450", 450), Parent(relation, "another", None, 1450)]
    assert [parent.sentence() for parent in parents_of(run)] == [
        f"{relation} other-run, v000003_step000450",
        f"{relation} another, step 1,450",
    ]


def test_relations_are_known_ones_and_to_others(run: RunFolder) -> None:
    with pytest.raises(ValueError, match="Did you mean 'started from'"):
        add_parent(run, "started form", "x")
    with pytest.raises(ValueError, match="There are: resumed from, started from"):
        add_parent(run, "z", "x")
    with pytest.raises(ValueError, match="cannot be started from itself: a resume within a run is an event"):
        add_parent(run, "started from", run.name)


@pytest.mark.parametrize("content", ["", "{}", "[1, {}]", '[{"relation": 1, "run": "x"}]'])
def test_lineage_that_cannot_be_understood_is_passed_over(run: RunFolder, content: str) -> None:
    run.lineage.write_text(content)
    assert parents_of(run) == []
