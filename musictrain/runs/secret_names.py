"""Which names promise a secret: of environment variables, options and keys of a configuration, by the words they are made of."""

from __future__ import annotations

import re
from functools import lru_cache

# Wherever they stand in a name, also run together as in PGPASSWORD.
SURELY = ("password", "passwd", "passphrase", "secret", "apikey", "credential", "privatekey", "accesskey", "authkey", "signingkey")
LAST_WORDS = {"token", "auth", "authorization", "bearer", "cookie", "pat", "jwt"}
# Words of music and of language models before "token", which no service uses.
TOKENS_OF_TEXT = {
    *("bos", "eos", "pad", "padding", "unk", "unknown", "mask", "sep", "cls", "start", "end", "stop", "bar", "special", "next", "last"),
    *("first", "per", "each", "prompt", "note", "begin", "of", "sentence", "rest", "hold", "num", "nats", "loss", "every", "by"),
}
SERVICES = {
    *("smtp", "imap", "mail", "email", "db", "database", "mysql", "pg", "redis", "user", "ftp", "sftp", "ssh", "http", "https", "proxy"),
    *("login", "git", "admin", "root", "sudo", "key", "server", "ldap", "mqtt", "mongo"),
}
OWNERS_OF_TOKENS = {"api", "auth", "access", "refresh", "bearer", "hf"}
# What says where or how, not what.
NOT_THE_SECRET = {
    *("variable", "var", "env", "environment", "file", "path", "dir", "folder", "name", "field", "length", "len", "type", "url", "uri"),
    *("enabled", "required", "mode", "method", "policy", "store", "size", "count", "dim", "id_field", "provider", "sock", "endpoint"),
}
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


@lru_cache(4096)
def words_of(name: str) -> tuple[str, ...]:
    """The words of a name in small letters; of a dotted key, those of its last part that says something.

    >>> words_of("--trainer.logger.init_args.apiKey"), words_of("WANDB_API_KEY")
    (('api', 'key'), ('wandb', 'api', 'key'))
    """
    last = next((part for part in reversed(name.split(".")) if part and not part.isdigit()), "")
    return tuple(word.lower() for word in WORD.findall(last))


@lru_cache(4096)
def is_surely_secret(name: str) -> bool:
    """Whether a name leaves no doubt: whatever stands under it, a number or a whole mapping, is secret."""
    words = words_of(name)
    if not words or words[-1] in NOT_THE_SECRET:
        return False
    run_together = "".join(words)
    return any(word in run_together for word in SURELY) or (words[-1] in ("pass", "pwd") and any(word in SERVICES for word in words[:-1]))


@lru_cache(4096)
def is_secret_name(name: str, *, of_environment: bool = False) -> bool:
    """Whether a text that stands under this name is a secret.

    Args:
        name: of an option, a key or a variable, dotted or not.
        of_environment: variables that end in ``_KEY`` count too; in a configuration that may be a piece's key.

    >>> [is_secret_name(name) for name in ("--hf_token", "tokenizer", "max_tokens", "eos_token", "smtp.password", "password_variable")]
    [True, False, False, False, True, False]
    >>> is_secret_name("KAGGLE_KEY"), is_secret_name("KAGGLE_KEY", of_environment=True)
    (False, True)
    """
    words = words_of(name)
    if is_surely_secret(name):
        return True
    if not words or words[-1] in NOT_THE_SECRET:
        return False
    last, before = words[-1], words[:-1]
    if last == "token":
        return not set(before) & TOKENS_OF_TEXT
    if last == "tokens":
        return bool(set(before) & OWNERS_OF_TOKENS)
    return last in LAST_WORDS or (of_environment and last == "key" and len(before) > 0)
