"""What a curriculum orders windows by: the weights it asks for, orderings that were handed in, and the difficulty once it is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from musictrain.data.corpus import Corpus
from musictrain.data.orderings.computing import checked_orderings, difficulty_of
from musictrain.data.orderings.difficulty import Difficulty
from musictrain.data.orderings.kept import kept_or_made
from musictrain.data.orderings.stretches import Ordering, Stretches
from musictrain.data.token_store import TokenStore
from musictrain.data.tokenizers.protocol import Tokenizer

NOTHING_ASKED: dict[str, Any] = {"orderings": {}, "taken_in": {}}


class AskedOrderings:
    """Knows by what is ordered; computes it when it is needed first."""

    def __init__(self) -> None:
        self.weights: dict[str, float] = {}
        self.taken_in: dict[str, tuple[str, Ordering]] = {}
        self._difficulty: Difficulty | None = None

    def ask(self, orderings: Any) -> None:
        """Order by these from now on: see ``checked_orderings``.

        Raises:
            ValueError: if there is no such ordering.
        """
        self.weights, self._difficulty = checked_orderings(orderings), None

    def take_in(self, store: TokenStore, tokenizer: Tokenizer, name: str, fingerprint: str, make: Callable[[Stretches], Ordering]) -> None:
        """Know an ordering that is computed elsewhere, found beside the store or made now.

        Raises:
            ValueError: if there is no such ordering, or what was made is of other stretches.
        """
        checked_orderings([name])
        stretches = Stretches.of(store, tokenizer.tokens_per_step)
        self.taken_in[name], self._difficulty = (fingerprint, kept_or_made(store, stretches, name, fingerprint, make)), None

    def difficulty(self, store: TokenStore, tokenizer: Tokenizer, corpus: Corpus) -> Difficulty | None:
        """The difficulty of the store's windows; None if nothing is asked for.

        Raises:
            ValueError: if ``reference_loss`` is asked for and was not taken in.
        """
        if self.weights and self._difficulty is None:
            self._difficulty = difficulty_of(store, tokenizer, corpus, self.weights, self.taken_in)
        return self._difficulty

    def settings(self) -> dict[str, Any]:
        """What the batches depend on, as plain values."""
        return {"orderings": self.weights, "taken_in": {name: self.taken_in[name][0] for name in self.weights if name in self.taken_in}}
