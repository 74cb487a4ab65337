"""Secrets: what is hidden, in which spelling, and what is left alone."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.runs.secret_names import is_secret_name
from musictrain.runs.secrets import HIDDEN, Secrets, can_be_told_apart, check_nothing_is_hidden, hidden_keys

ODD = 'k3y of "ada"/ü&\'?+'


@pytest.mark.parametrize(
    "name",
    [
        *("password", "smtp_password", "SMTP_PASS", "MYSQL_PWD", "PGPASSWORD", "passwd", "db.passphrase", "client_secret", "secretKey"),
        *("WANDB_API_KEY", "apiKey", "--logger.api-key", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "hf_token"),
        *("--trainer.logger.init_args.token", "credentials", "private_key", "proxy_auth", "bearer", "Authorization", "api_tokens"),
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("tokenizer", "max_tokens", "tokens_per_second", "eos_token", "pad_token", "token_store", "num_tokens", "token_dim", "key", "PWD"),
        *(
            "OLDPWD",
            "SSH_AUTH_SOCK",
            "author",
            "password_variable",
            "PASSWORD_FILE",
            "secret_name",
            "forward_pass",
            "sort_key",
            "XAUTHORITY",
        ),
        *("global_batch_tokens", "monkey", "keyboard", "", "model.init_args.passes"),
    ],
)
def test_names_of_what_is_none(name: str) -> None:
    assert not is_secret_name(name)


def test_only_the_environment_has_secret_keys_without_a_further_word() -> None:
    assert is_secret_name("KAGGLE_KEY", of_environment=True)
    assert not is_secret_name("time_key")


@pytest.mark.parametrize(
    "spelt",
    [
        ODD,
        json.dumps(ODD)[1:-1],
        json.dumps(ODD, ensure_ascii=False)[1:-1],
        json.dumps(json.dumps({"x": ODD})),
        repr(ODD),
        quote(ODD),
        quote(ODD, safe="").lower(),
        quote_plus(ODD),
        base64.b64encode(ODD.encode()).decode(),
        base64.urlsafe_b64encode(ODD.encode()).decode(),
    ],
)
def test_a_known_secret_is_hidden_in_every_spelling(spelt: str) -> None:
    secrets = Secrets({"SOME_PASSWORD": ODD})
    told = secrets.hide(f"before {spelt} after")
    assert told.startswith("before ")
    assert told.endswith(" after")
    assert "k3y" not in told
    assert base64.b64encode(ODD.encode()).decode()[:12] not in told


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("smtp://ada:hunter2@mail.example.org:25", "smtp://ada:***@mail.example.org:25"),
        ("postgres://u:p@ss@host/db?x=1", "postgres://u:***@host/db?x=1"),
        ("redis://:hunter2@host", "redis://:***@host"),
        ("https://h/x?a=1&token=abc&b=2", "https://h/x?a=1&token=***&b=2"),
        ("https://h/x?X-Amz-Signature=abc#top", "https://h/x?X-Amz-Signature=***#top"),
        ("Authorization: Bearer abc", "Authorization: Bearer ***"),
        ("{'Authorization': 'Basic YTpi'}", "{'Authorization': 'Basic ***'}"),
        ("curl -H x-api-key:abc", "curl -H x-api-key:***"),
        ("bearer eyJhbGciOi.abc.def", "***"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----\nrest", "***\nrest"),
        ("ghp_" + "a1" * 18, "***"),
        ("AKIAABCDEFGHIJKLMNOP!", "***!"),
        ('{"api_key": "abc def", "lr": 1}', '{"api_key": "***", "lr": 1}'),
        (r'"{\"api_key\": \"abc def\", \"lr\": 1}"', r'"{\"api_key\": \"***\", \"lr\": 1}"'),
        ('+PASSWORD = "hunt\\"er2"', '+PASSWORD = "***"'),
        ("+  smtp_password: hunter2", "+  smtp_password: ***"),
        ("password=hunter2, lr=1", "password=***, lr=1"),
        ("token=abcdefgh1234567890abcd", "***"),
    ],
)
def test_what_looks_like_a_secret_is_hidden_though_nobody_knew_it(text: str, hidden: str) -> None:
    assert Secrets({}).hide(text) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "step 500/1,500  27 %  loss 1.104  21,500 tokens/s  key=C",
        "tokenizer=voice_grid  token=60  token: Pitch_60  eos_token: 2",
        "password: str | None = None",
        "self.password = os.environ['SMTP_PASSWORD']",
        "password = read_password(prompt)",
        "Set the password in MUSICTRAIN_SMTP_PASSWORD.",
        "bad password: connection refused",
        "musictrain.runs.secrets: nothing to hide",
        "http://host:8080/a@b at 12:30 by a@b.c",
        "password: ${oc.env:X}",
        "password_variable: MUSICTRAIN_SMTP_PASSWORD",
        "the bearer of bad news",
        "tests/runs/test_secrets.py:12: two passed",
    ],
)
def test_what_is_innocent_stays(text: str) -> None:
    assert Secrets({}).hide(text) == text


@pytest.mark.parametrize(
    "part", ["a", "password", "a:", "token=", "a1", "-----BEGIN ", "://", "?a.", "secret.", "cookie:", "api_key_", "\\", " "]
)
def test_long_hostile_texts_are_read_once(part: str) -> None:
    text = "password: x://" + part * (100_000 // len(part)) + "!"
    assert len(Secrets({}).hide(text)) <= len(text)


def test_short_values_and_common_words_are_hidden_under_their_name_alone() -> None:
    secrets = Secrets({"A_TOKEN": "offline", "B_PASSWORD": "abc", "C_PASSWORD": "100000", "D_PASSWORD": "/", "E_PASSWORD": "******"})
    assert secrets.hide("offline abc 100000 / ******") == "offline abc 100000 / ******"
    assert secrets.hidden({"a_token": "offline", "b_password": "abc"}) == {"a_token": HIDDEN, "b_password": HIDDEN}


def test_a_variable_set_or_changed_later_is_hidden_and_a_gone_one_stays_so() -> None:
    environment = {"A": "1"}
    secrets = Secrets(environment)
    assert secrets.hide("hunter2 hunter3") == "hunter2 hunter3"
    environment["A_PASSWORD"] = "hunter2"
    assert secrets.hide("hunter2 hunter3") == "*** hunter3"
    environment["A_PASSWORD"] = "hunter3"
    del environment["A"]
    assert secrets.hide("hunter2 hunter3") == "*** ***"


def test_a_key_may_be_that_of_a_piece() -> None:
    secrets = Secrets({"PIECE_KEY": "C major", "KAGGLE_KEY": "9f8e7d6c5b4a3210"})
    assert secrets.hide("in C major with 9f8e7d6c5b4a3210") == "in C major with ***"


def test_the_password_of_a_proxy_is_known() -> None:
    assert Secrets({"HTTPS_PROXY": "http://ada:pr0xy-word@proxy:3128"}).hide("refused pr0xy-word") == "refused ***"


def test_nested_values_keep_their_form() -> None:
    config = {
        "lr": 0.1,
        "password": 123456,
        "empty": {"password": None, "token": "", "auth": True},
        "loggers": [{"api_key": "abc"}, ("x", 1)],
        "credentials": {"user": "ada", "key": "abc"},
        "command": ["--api_key", "abc", "--token=abc", "--lr", "1"],
    }
    before = json.dumps(config)
    assert Secrets({}).hidden(config) == {
        "lr": 0.1,
        "password": HIDDEN,
        "empty": {"password": None, "token": "", "auth": True},
        "loggers": [{"api_key": HIDDEN}, ("x", 1)],
        "credentials": {"user": HIDDEN, "key": HIDDEN},
        "command": ["--api_key", HIDDEN, f"--token={HIDDEN}", "--lr", "1"],
    }
    assert json.dumps(config) == before


def test_what_a_configuration_or_a_command_gave_away_is_hidden_elsewhere() -> None:
    secrets = Secrets({})
    secrets.remember_command(["fit", "--x.api_key", "first-value", "--y.token=second-value", '--z={"password": "third-value"}'])
    secrets.remember_config({"a": [{"passwd": "fourth-value"}], "url": "ftp://u:fifth-value@h", "words": ["--api-key", "sixth-value"]})
    told = secrets.hide(" ".join(f"{which}-value" for which in ("first", "second", "third", "fourth", "fifth", "sixth", "no")))
    assert told == "*** *** *** *** *** *** no-value"


def test_each_line_of_a_key_file_is_known() -> None:
    secrets = Secrets({"DEPLOY_PRIVATE_KEY": "first-line-of-the-key\nsecond-line-of-the-key"})
    assert secrets.hide("got second-line-of-the-key") == "got ***"


@given(st.text(min_size=10, max_size=40).map(str.strip).filter(can_be_told_apart))
def test_whatever_a_secret_is_made_of_it_is_gone(secret: str) -> None:
    secrets = Secrets({})
    secrets.remember(secret)
    for spelt in (secret, json.dumps(secret), quote(secret, safe="")):
        told = secrets.hide(f"before {spelt} after")
        assert spelt not in told
        assert (told[:7], told[-6:]) == ("before ", " after")


def test_a_configuration_with_a_hidden_value_is_refused_by_its_key() -> None:
    config = {"trainer": {"logger": [{"init_args": {"api_key": HIDDEN, "url": f"ftp://a:{HIDDEN}@h"}}]}, "note": "best ***"}
    assert hidden_keys(config) == ["trainer.logger.0.init_args.api_key", "trainer.logger.0.init_args.url"]
    with pytest.raises(ValueError, match=r"config.yaml says \*\*\* for trainer.logger.0.init_args.api_key, .*url: .*VALUE.*WANDB_API_KEY"):
        check_nothing_is_hidden(config, "config.yaml")
    check_nothing_is_hidden({"note": "best ***"})
