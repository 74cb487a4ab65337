"""What counts as another model, tokenizer or corpus when a run goes on."""

from __future__ import annotations

from musictrain.cli.resume import differences


def test_another_import_path_of_the_same_class_is_no_difference() -> None:
    began = {"class_path": "musictrain.models.Decoder", "init_args": {"d_model": 64}}
    assert not list(differences(began, {**began, "class_path": "musictrain.Decoder"}, "network"))


def test_another_class_is_a_difference_and_so_is_one_that_is_not_there() -> None:
    for other in ("musictrain.models.Recurrent", "my_package.Decoder", "Decoder"):
        found = list(differences({"class_path": "musictrain.Decoder"}, {"class_path": other}, "network"))
        assert found == [("network.class_path", "musictrain.Decoder", other)]


def test_a_value_that_is_gone_is_a_difference() -> None:
    assert list(differences({"a": 1}, {}, "network")) == [("network.a", 1, None)]
