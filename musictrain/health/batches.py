"""DataAnomalies: batches that look wrong before they do harm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from musictrain.health.detector import NOTHING, Action, IncidentDetector, Settings
from musictrain.health.finding import Finding
from musictrain.health.vitals import Vitals

MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class DataAnomalies(Settings):
    """Batches that look wrong: tokens that the training set never has, rows that are all of one piece, a window of silence.

    Looks at the facts ``unseen_tokens``, ``pieces``, ``silent_beats`` and ``window_beats`` of the batch. Found at the very look. A corpus
    whose batches are of one piece from the first look on, as a folder with one file, is told of once.

    Args:
        most_silent_beats: a longer silence inside a window is told of; so is a window that is silent as a whole.
        least_rows: batches of fewer rows may be of one piece.
    """

    kind: ClassVar[str] = "data"
    action: Action = "alert"
    most_silent_beats: float = 32.0
    least_rows: int = 4

    def detector(self) -> DataAnomaliesDetector:
        """A detector that has seen nothing yet."""
        return DataAnomaliesDetector(self)


class DataAnomaliesDetector(IncidentDetector[DataAnomalies]):
    """Finds batches that look wrong."""

    def look(self, vitals: Vitals) -> Mapping[str, Finding] | None:
        """What is wrong with the batch."""
        batch = vitals.batch
        if not batch:
            return None
        found = {}
        if unseen := batch.get("unseen_tokens"):
            found["unseen_tokens"] = self._unseen(list(unseen), vitals)
        pieces = batch.get("pieces") or []
        if len(pieces) >= self.settings.least_rows and pieces.count(pieces[0]) == len(pieces):
            found["one_piece"] = self._one_piece(str(pieces[0]), len(pieces), vitals)
        silent, window = float(batch.get("silent_beats") or 0.0), float(batch.get("window_beats") or 0.0)
        if silent > self.settings.most_silent_beats or 0.0 < window <= silent:
            found["silence"] = self._silence(silent, vitals)
        return found or NOTHING

    def _unseen(self, tokens: list[int], vitals: Vitals) -> Finding:
        more = len(tokens) - MOST_NAMED
        named = ", ".join(map(str, tokens[:MOST_NAMED])) + (f" and {more:,} more" if more > 0 else "")
        return self._finding(
            vitals,
            what="the number of tokens never seen in training",
            value=float(len(tokens)),
            normal=0.0,
            score=float(len(tokens)),
            beyond=f"ids {named}",
            advice="Is the token store damaged, or from another tokenizer? Delete its folder in the cache, and it is made again.",
        )

    def _one_piece(self, piece: str, rows: int, vitals: Vitals) -> Finding:
        return self._finding(
            vitals,
            what="the number of pieces",
            value=1.0,
            score=float(rows),
            beyond=f"all {rows} rows are from {piece}",
            advice="A step sees one piece only: shuffle, take smaller windows or more pieces, or look for one that outweighs the corpus.",
        )

    def _silence(self, beats: float, vitals: Vitals) -> Finding:
        return self._finding(
            vitals,
            what="the longest silence",
            value=beats,
            score=beats,
            beyond="no note begins or sounds in it",
            advice="Hear it with `musictrain replay`; a file with a long rest or a broken end is better cut or left out.",
            unit="beats",
        )

    def _finding(self, vitals: Vitals, *, normal: float = math.nan, **said: Any) -> Finding:
        number = vitals.batch.get("number")
        where, details = ("", {}) if number is None else (f"batch {number}", {"batch": number})
        return Finding(self.settings.kind, vitals.step, where=where, normal=normal, details=details, **said)
