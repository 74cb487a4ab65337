"""A tokenizer's fingerprint: what must stay equal for token ids to keep their meaning."""

from __future__ import annotations

import hashlib
import json

from musictrain.data.tokenizers.protocol import Tokenizer


def fingerprint_of(tokenizer: Tokenizer) -> str:
    """Sixteen hex digits of class, arguments and all token names; the same in every process and on every machine."""
    names = [tokenizer.token_name(token) for token in range(tokenizer.vocab_size)]
    meaning = {"class": type(tokenizer).__name__, "config": tokenizer.config(), "tokens": names}
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()[:16]
