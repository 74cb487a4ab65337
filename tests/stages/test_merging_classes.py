"""Laws of laying one configuration over another where they speak of classes: settings stay with their class, and go to no other."""

from __future__ import annotations

from typing import Any

import pytest

from musictrain.stages.merging import DEFAULTS, laid_over, merged, same_class

OURS, TORCHS = "musictrain.optim.AdamW", "torch.optim.AdamW"


def part(class_path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": arguments}


def optimizer(value: Any) -> dict[str, Any]:
    return {"model": {"class_path": "musictrain.MusicModule", "init_args": {"optimizer": value}}}


def over(below: Any, above: Any) -> Any:
    return laid_over(optimizer(below), optimizer(above))["model"]["init_args"]["optimizer"]


@pytest.mark.parametrize(
    ("below", "above", "result"),
    [
        # One class under several names.
        (part(OURS, lr=1, eps=2), part("AdamW", lr=3), part("AdamW", lr=3, eps=2)),
        (part("AdamW", lr=1, eps=2), part(OURS, lr=3), part(OURS, lr=3, eps=2)),
        (part("musictrain.optim.optimizers.AdamW", lr=1), part(OURS, eps=2), part(OURS, lr=1, eps=2)),
        (part("NAdam", lr=1), part("torch.optim.NAdam", eps=2), part("torch.optim.NAdam", lr=1, eps=2)),
        # Two of one name: the name alone is musictrain's, as `fit` has it.
        (part(TORCHS, lr=1, amsgrad=True), part("AdamW", eps=2), part("AdamW", eps=2)),
        (part(OURS, lr=1), part(TORCHS), {"class_path": TORCHS, "init_args": {}}),
        (part(OURS, lr=1), part("musictrain.optim.Lion", weight_decay=1), part("musictrain.optim.Lion", weight_decay=1)),
        # Only settings, with init_args around them or without.
        (part("Lion", lr=1, weight_decay=2), {"init_args": {"lr": 3}}, part("Lion", lr=3, weight_decay=2)),
        (part("Lion", lr=1, weight_decay=2), {"lr": 3}, part("Lion", lr=3, weight_decay=2)),
        ("Lion", {"init_args": {"lr": 3}}, part("Lion", lr=3)),
        ("musictrain.optim.Lion", {"lr": 3}, part("musictrain.optim.Lion", lr=3)),
        # Only a class path.
        (part(OURS, lr=1), "AdamW", part("AdamW", lr=1)),
        (part(OURS, lr=1), "Lion", "Lion"),
        ("Lion", part("Lion", lr=1), part("Lion", lr=1)),
        # Settings of the class that is the default, which is not named.
        ({"init_args": {"lr": 1}}, part("AdamW", eps=2), part("AdamW", lr=1, eps=2)),
        ({"lr": 1}, part("SOAP", eps=2), part("SOAP", eps=2)),
        ({"init_args": {"lr": 1}}, part("SOAP", eps=2), part("SOAP", eps=2)),
    ],
)
def test_settings_stay_with_their_class_and_go_to_no_other(below: Any, above: Any, result: Any) -> None:
    assert over(below, above) == result


def test_settings_of_nobody_knows_which_class_are_refused() -> None:
    with pytest.raises(ValueError, match=r"network is to be musictrain\.Decoder, and below it has settings of a class that is not named"):
        merged({"network": {"init_args": {"width": 3}}}, {"network": part("musictrain.Decoder")})
    with pytest.raises(ValueError, match=r"optimizer has lr beside its class_path\. Settings of a class go into its init_args"):
        merged({"optimizer": part("Lion")}, {"optimizer": {"class_path": "Lion", "lr": 3}})


def test_a_word_that_is_no_class_is_replaced_by_what_lies_over_it() -> None:
    assert merged({"watch": "val/loss"}, {"watch": {"metric": "val/loss"}}) == {"watch": {"metric": "val/loss"}}
    assert merged({"tokenizer": part("VoiceGrid", lowest=3)}, {"tokenizer": None}) == {"tokenizer": None}


def test_what_cannot_be_found_is_not_the_same_class() -> None:
    assert not same_class("nowhere.Network", "musictrain.models.Network")
    assert same_class("nowhere.Network", "nowhere.Network")


def test_the_classes_that_need_not_be_named_are_those_that_a_fit_takes() -> None:
    import inspect

    from musictrain import MusicModule
    from musictrain.optim import AdamW, WarmupCosine

    taken = inspect.signature(MusicModule).parameters
    assert taken["optimizer"].default is AdamW
    assert isinstance(taken["schedule"].default, WarmupCosine)
    assert {DEFAULTS[f"model.init_args.{key}"].rpartition(".")[2] for key in ("optimizer", "schedule")} == {"AdamW", "WarmupCosine"}


def test_outermost_keys_may_be_dotted_and_what_lies_above_still_counts() -> None:
    low = laid_over({}, {"trainer": {"devices": 1}, "trainer.max_steps": 10, "trainer.callbacks": [1]})
    assert low == {"trainer": {"devices": 1, "max_steps": 10, "callbacks": [1]}}
    high = laid_over(low, {"trainer": {"max_steps": 5}, "trainer.callbacks+": [2], "model.init_args.frozen": {"blocks.0": 1}})
    assert high["trainer"] == {"devices": 1, "max_steps": 5, "callbacks": [1, 2]}
    assert high["model"] == {"init_args": {"frozen": {"blocks.0": 1}}}, "names inside are left as they are"
