"""What secrets look like inside a text: passwords in URLs, headers, key files, tokens of well-known services, ``api_key=...``."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

URL = r"\b[a-zA-Z][a-zA-Z0-9+.-]{0,30}://[^\s:/@\"'<>]{0,200}:(?P<password>[^\s/\"'<>]{1,300})@(?=[\w\[.-])"
QUERY = (
    r"[?&;](?:[\w.-]{0,40}[_.-])?(?i:token|api_?key|key|secret|password|passwd|pwd|auth|signature|sig|access_token|client_secret)="
    r"(?P<query>[^\s&;#\"'<>]+)"
)
HEADER = (
    r"(?i:\bauthorization|\bproxy-authorization|\bcookie|\bset-cookie|\bx-api-key|\bx-auth-token)[\"']?\s*[:=]\s*[\"']?"
    r"(?:(?i:bearer|basic|token|digest|negotiate)\s+)?(?P<credentials>[^\s\"',;}]+)"
)
BEARER = r"\b(?i:bearer)\s+[A-Za-z0-9._~+/=-]{8,}"
KEY_FILE = r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:(?!-----END)[\s\S]){0,20000}(?:-----END [A-Z ]{0,40}PRIVATE KEY-----)?"
SERVICES = (
    r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{18,}|hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}"
    r"|xox[abprs]-[\w-]{10,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,})"
)
# A name that leaves no doubt, and what is assigned to it; or any token, if what is assigned is long and odd.
NAME = (
    r"(?i:(?:password|passwd|passphrase|secret(?!s\b)|api[_-]?key|access[_-]?key|private[_-]?key|credentials?"
    r"|(?:auth|access|api|hf)[_-]token)(?![\w.-]{0,40}(?:variable|_env|_file|_path|_name)\b)[\w-]{0,40})"
)
# Without quotes: after an equals sign up to a space; after a colon only what ends its line, since prose has colons too.
ASSIGNMENT = NAME + (
    r"(?:\\?[\"'])?(?:\s{0,3}(?:=(?!=)|(?P<colon>:)(?!:|//))\s{0,3}|\s(?=[\"']))(?P<quote>\\?[\"'])?"
    r"(?P<value>(?(quote)(?:(?!(?P=quote))(?:\\.|[^\n\\])){1,400}|[^\s\"',;&)}\]\\]{1,400}(?(colon)(?=\s*(?:$|[#,}\\]))|)))"
)
LONG_TOKEN = r"(?i:\btoken)[\"']?\s?[=:]\s?[\"']?(?=[A-Za-z._~+/=-]{0,80}[0-9])(?=[0-9._~+/=-]{0,80}[A-Za-z])[A-Za-z0-9._~+/=-]{20,}"
SHAPES = re.compile("|".join((URL, QUERY, HEADER, KEY_FILE, SERVICES, ASSIGNMENT, BEARER, LONG_TOKEN)), re.MULTILINE)
URL_PASSWORD = re.compile(URL)
# One of these, in small letters, is in every text that holds a shape; looking for them is far cheaper than looking for the shapes.
SIGNS = (
    *(
        "://",
        "passw",
        "passphrase",
        "secret",
        "credential",
        "authorization",
        "cookie",
        "bearer",
        "-----begin",
        "api_key",
        "api-key",
        "apikey",
    ),
    *(
        "access_key",
        "access-key",
        "accesskey",
        "private_key",
        "private-key",
        "privatekey",
        "token=",
        "token:",
        "token'",
        'token"',
        "token =",
    ),
    *("token :", "_token", "-token", "key=", "pwd=", "auth=", "signature=", "sig=", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    *("glpat-", "hf_", "sk-", "akia", "xox", "eyj"),
)

# What stands behind `password =` or `password:` in a program, and is none.
WORDS_OF_PROGRAMS = re.compile(
    r"(?:None|True|False|null|true|false|str|int|bool|bytes|float|object|Any|Optional|SecretStr|self|lambda|not|or|and|\.\.\.|-|\|)$"
    r"|[A-Za-z_][\w.]*[(\[]|(?:self|os|args|config|settings|options|cfg|secrets)\."
)
PLACEHOLDERS = re.compile(r"\*+$|\$\{?\w|<\w|\{|%[(sr]")


def may_hold_a_secret(text: str) -> bool:
    """Whether it is worth looking for shapes at all."""
    small = text.lower()
    return any(sign in small for sign in SIGNS)


def is_code(found: re.Match[str]) -> bool:
    """Whether what a text assigns to a secret name is part of a program, such as a type or a call, or a placeholder.

    >>> [is_code(SHAPES.search(text)) for text in ('password: str', 'password = read()', 'password = "hunter2"', 'password: hunter2')]
    [True, True, False, False]
    """
    value = found["value"]
    return PLACEHOLDERS.match(value) is not None or (found["quote"] is None and WORDS_OF_PROGRAMS.match(value) is not None)


def spellings(value: str) -> set[str]:
    """How a value may stand in a file: as it is, and as JSON, Python, YAML, a URL, HTML and base64 write it."""
    return {value, *filter(None, _spelt(value))}


def _spelt(value: str) -> Iterator[str]:
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield json.dumps(json.dumps(value)[1:-1])[1:-1]
    yield repr(value)[1:-1]
    yield value.replace("'", "''")
    safe_value = value.encode("utf-8", "surrogatepass")
    for quoted in (quote(safe_value, safe=""), quote(safe_value), quote_plus(safe_value)):
        yield quoted
        yield re.sub(r"%[0-9A-F]{2}", lambda found: found[0].lower(), quoted)
    yield html.escape(value)
    yield html.escape(value, quote=False)
    yield base64.b64encode(safe_value).decode().rstrip("=")
    yield base64.urlsafe_b64encode(safe_value).decode().rstrip("=")
