"""Every complaint of jsonargparse becomes one or two lines with the nearest word. The complaints were recorded."""

from __future__ import annotations

import pytest

from musictrain.cli.parse_errors import condense, parameters_of

KEYS = ["trainer.max_steps", "trainer.max_epochs", "trainer.callbacks", "model", "data", "seed_everything", "runs", "name"]

UNION = """\
Parser key "{key}":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'x.Data'>, <class 'NoneType'>]
  Errors:
    - {problem}
    - Expected a <class 'NoneType'>
  Given value type: <class 'dict'>
  Given value: {{'class_path': 'x.Data', 'init_args': {{'corps': 'chorales'}}}}"""

IN_NOTES = """Problem with given class_path 'musictrain.notes.Notes':
        {inner}"""

NESTED = """Problem with given class_path 'toy.Module':
        Parser key "network":
          Problem with given class_path 'musictrain.notes.Notes':
            {inner}"""


@pytest.mark.parametrize(
    ("message", "condensed"),
    [
        (
            "unrecognized arguments: --trainer.max_epoch 3",
            "Unknown option 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'? All options: musictrain fit --help",
        ),
        (
            "Subcommand 'fit' does not accept option 'trainr.max_steps'",
            "Unknown option 'trainr.max_steps'. Did you mean 'trainer.max_steps'? All options: musictrain fit --help",
        ),
        ("unrecognized arguments: zzz", "Unknown option 'zzz'. All options: musictrain fit --help"),
        (
            UNION.format(key="data", problem=IN_NOTES.format(inner="Option 'pich' is not accepted")),
            "Unknown key data.init_args.pich: Notes has no 'pich'. Did you mean 'pitch'? "
            "It takes: onset, duration, pitch, velocity, program, track, drum, time_signatures, tempos.",
        ),
        (
            UNION.format(key="model", problem=NESTED.format(inner="Option 'pich.init_args.x' is not accepted")),
            "Unknown key model.init_args.network.init_args.pich: Notes has no 'pich'. Did you mean 'pitch'? "
            "It takes: onset, duration, pitch, velocity, program, track, drum, time_signatures, tempos.",
        ),
        (
            UNION.format(key="model", problem=NESTED.format(inner="Parser key \"width\":\n  Expected a <class 'int'>. Got value: wide")),
            "model.init_args.network.init_args.width is 'wide', but should be int.",
        ),
        (
            UNION.format(key="model", problem=IN_NOTES.format(inner="module 'musictrain.suggestions' has no attribute 'did_you_man'")),
            "model: there is no musictrain.suggestions.did_you_man. Did you mean 'did_you_mean'?",
        ),
        (
            "Parser key \"trainer.max_steps\":\n  Expected a <class 'int'>. Got value: many",
            "trainer.max_steps is 'many', but should be int.",
        ),
        ("Parser key \"config\": File does not exist: 'nofile.yaml'", "config: File does not exist: 'nofile.yaml'"),
    ],
)
def test_the_cause_stands_alone(message: str, condensed: str) -> None:
    assert condense(message, KEYS, "musictrain fit") == condensed


def test_what_is_no_tree_keeps_its_first_lines() -> None:
    message = "Problems parsing config: while parsing a flow sequence\n" + "\n".join(f"line {n}" for n in range(9))
    assert condense(message, KEYS, "musictrain fit").splitlines()[-1] == "line 2 ..."


def test_keys_that_are_handed_on_are_among_those_a_class_takes() -> None:
    taken = parameters_of("musictrain.callbacks.SampleAndScore")
    assert taken[0] == "num_scored"
    assert {"top_p", "every"} <= set(taken)
    assert "sampling" not in taken
    assert parameters_of("musictrain.Decoder")[0] == "vocab_size"
    assert parameters_of("json.dumps")[0] == "obj"
    assert parameters_of("json.nothing") == []
