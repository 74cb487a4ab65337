"""What counts as another model, tokenizer or corpus when a run goes on."""

from __future__ import annotations

from musictrain.cli.resume import part_changes


def test_another_import_path_of_the_same_class_is_no_difference() -> None:
    began = {"class_path": "musictrain.models.Decoder", "init_args": {"d_model": 64}}
    assert not list(part_changes(began, {**began, "class_path": "musictrain.Decoder"}, "network"))


def test_another_class_is_a_difference_and_so_is_one_that_is_not_there() -> None:
    for other in ("musictrain.models.Recurrent", "my_package.Decoder", "Decoder"):
        found = list(part_changes({"class_path": "musictrain.Decoder"}, {"class_path": other}, "network"))
        assert found == [("network.class_path", "musictrain.Decoder", other)]


def test_a_value_that_is_gone_is_a_difference() -> None:
    assert list(part_changes({"a": 1}, {}, "network")) == [("network.a", 1, None)]
