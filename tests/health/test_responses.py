"""What is done about findings: how often something is tried, what comes next, and what is never tried."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from musictrain.health import DETECTORS, Finding, GradientSpike, Layers, LossSpike, NonFinite, Settings, Updates, Vitals
from musictrain.health.lowered_rate import LoweredRate
from musictrain.health.responses import Responses, leaves_out
from musictrain.health.settling import ONE_BATCH, OUTSIDE, detectors_of, first_suspect
from musictrain.health.words import advice_on, guilty_ranks, what_was_done


def bad(step: int, of: str = "gradients") -> Vitals:
    return Vitals(step, {f"non_finite/{of}": 1.0}, {f"non_finite/{of}": "a.weight"})


def good(step: int) -> Vitals:
    return Vitals(step, {"non_finite/gradients": 0.0, "non_finite/weights": 0.0})


def answers(settings: Settings, vitals: list[Vitals]) -> list[str]:
    detector, responses = settings.detector(), Responses()
    got = [responses.to(detector, detector.see(one)) for one in vitals]
    return [response.action if response is not None and detector.settings.action else "" for response in got]


def test_a_bounded_action_is_followed_by_the_next_stronger_one() -> None:
    actions = answers(NonFinite(action="skip", attempts=2), [bad(step) for step in range(7)])
    assert actions == ["skip", "skip", "reduce_lr", "reduce_lr", "roll_back", "roll_back", "stop"]


def test_a_bad_batch_now_and_then_is_left_out_for_ever() -> None:
    steps = [bad(step) if step % 150 == 0 else good(step) for step in range(0, 1501, 10)]
    assert set(answers(NonFinite(attempts=2), steps)) == {"skip", "alert", ""}
    assert answers(NonFinite(attempts=2), steps).count("skip") == 11


def test_bad_batches_close_to_one_another_count_together() -> None:
    steps = [bad(step) if step % 50 == 0 else good(step) for step in range(0, 151, 10)]
    assert [action for action in answers(NonFinite(attempts=2), steps) if action not in ("", "alert")] == [
        "skip", "skip", "reduce_lr", "reduce_lr",
    ]  # fmt: skip


def test_weights_that_are_not_finite_are_not_met_with_smaller_steps() -> None:
    assert answers(NonFinite(action="skip"), [bad(3, "weights")]) == ["roll_back"]


def test_what_was_not_tried_is_not_said_to_have_failed() -> None:
    for of, words in (("weights", "would not help"), ("gradients", "did not help")):
        detector, responses = NonFinite(action="skip", attempts=1).detector(), Responses()
        response = [responses.to(detector, detector.see(bad(step, of))) for step in (1, 2)][0 if of == "weights" else 1]
        assert response is not None
        assert what_was_done(response, lr_factor=0.1, lr_steps=5, left_out=True).startswith(f"Leaving out updates {words}: ")


@pytest.mark.parametrize("action", ["alert", "log"])
def test_what_only_tells_tells_once_when_it_begins_and_once_when_it_is_over(action: str) -> None:
    settings = NonFinite(action=action, calm=2)  # type: ignore[arg-type]
    assert answers(settings, [bad(1), bad(2), good(3), good(4), good(5)]) == [action, "", "", action, ""]


def test_what_cannot_be_done_is_followed_by_what_is_stronger_with_the_reason() -> None:
    detector, responses = NonFinite(action="roll_back").detector(), Responses()
    response = responses.to(detector, detector.see(bad(1)))
    assert response is not None
    instead = responses.refused(response, "There are no versions.")
    assert (instead.action, instead.because) == ("stop", "There are no versions.")
    assert what_was_done(instead, lr_factor=0.1, lr_steps=5, left_out=True) == "There are no versions. The run is stopped."


@pytest.mark.parametrize("action", ["skip", "reduce_lr", "roll_back", "stop"])
def test_an_update_that_is_not_finite_is_never_made(action: str) -> None:
    detector, responses = NonFinite(action=action).detector(), Responses()  # type: ignore[arg-type]
    for step in range(12):
        response = responses.to(detector, detector.see(bad(step)), busy=step % 2 == 1)
        assert response is not None
        assert leaves_out(response)


def test_the_counts_survive_json() -> None:
    detector, responses = NonFinite(attempts=3).detector(), Responses()
    for step in range(5):
        responses.to(detector, detector.see(bad(step)))
    restored = Responses()
    restored.load_state_dict(json.loads(json.dumps(responses.state_dict())))
    assert restored.state_dict() == responses.state_dict()
    response = restored.to(detector, detector.see(bad(5)))
    assert response is not None
    assert (response.action, response.attempt) == ("reduce_lr", 3)


def test_settings_can_be_mappings_and_off_is_off() -> None:
    made = detectors_of({"non_finite": {"action": "stop"}, "plateau": {"action": "off"}})
    assert made["non_finite"].settings == NonFinite(action="stop")
    assert set(made) == set(DETECTORS) - {"plateau"}


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"loss_spike": {"treshold": 3.0}}, "did you mean 'threshold'|threshold"),
        ({"loss_spike": NonFinite()}, "loss_spike got NonFinite; it needs LossSpike"),
        ({"memory": {"action": "roll_back"}}, "does not mend what it finds: it takes off, log, alert or stop"),
        ({"validation_drift": {"action": "skip"}}, "no single update does"),
        ({"plateau": {"action": "skip"}}, "no single update does"),
    ],
)
def test_settings_that_cannot_work_are_refused(given: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        detectors_of(given)


def test_every_kind_is_known_before_the_update_or_not() -> None:
    assert ONE_BATCH.isdisjoint(OUTSIDE)
    assert set(DETECTORS) >= ONE_BATCH | OUTSIDE


def test_a_lowered_rate_is_given_back_to_the_bit() -> None:
    rate, group = LoweredRate(), {"lr": 0.1 + 0.2}
    rate.lower(0.3, 5, 4)
    for step in range(1, 12):
        rate.apply([group], step)
        rate.apply([group], step)
        assert group["lr"] == pytest.approx((0.1 + 0.2) * (0.3 if 5 <= step <= 8 else 1.0))
        rate.give_back()
        assert group["lr"] == 0.1 + 0.2


def test_lowering_again_lies_on_top() -> None:
    rate = LoweredRate()
    rate.lower(0.5, 1, 10)
    rate.lower(0.5, 3, 10)
    assert (rate.factor_at(3), rate.factor_at(12), rate.factor_at(13)) == (0.25, 0.25, 1.0)
    rate.lower(0.5, 20, 2)
    assert rate.factor_at(21) == 0.5


def test_an_alert_is_about_the_ranks_whose_loss_is_not_finite() -> None:
    assert guilty_ranks([1.0, math.nan, 2.0]) == [1]
    assert guilty_ranks([1.0, 2.0]) == [0, 1]


def test_the_advice_names_the_command_with_run_and_step() -> None:
    detector, responses = NonFinite().detector(), Responses()
    response = responses.to(detector, detector.see(bad(7)))
    assert response is not None
    assert "`musictrain replay a-run --step 7`" in advice_on(response, "a-run")
    assert "`musictrain replay a-run --step 7 --attempt 2`" in advice_on(response, "a-run", 2)
    assert advice_on(response, "a-run").count("musictrain replay") == 1
    assert advice_on(response, "") == response.finding.advice


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (NonFinite(), 0),  # seen before the update is made
        (LossSpike(), 1),  # of weights that the update before it has made
        (GradientSpike(), 1),
        (Updates(), 9),  # the look before was at the tenth step before
        (Layers(patience=2), 19),
    ],
)
def test_what_may_have_begun_before_it_is_told_is_not_trusted(settings: Settings, steps: int) -> None:
    finding = Finding(settings.kind, 60, "it", "", 1.0, 0.0, 1.0, "", began=50)
    assert first_suspect(settings, finding, 10) == 50 - steps
    assert first_suspect(settings, replace(finding, began=1), 10) == 1
