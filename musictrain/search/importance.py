"""Which parameters mattered: how much worse a random forest tells the result when one parameter's values are shuffled among the points.

Conventions:

- One row a point: its values, and the mean of its result over the seeds, all after the same number of steps. Points without a finite
  result are left out, and counted.
- The forest is asked out of bag throughout: each point by the trees that have not seen it, before the shuffling and after. So nothing
  is learned by heart, and R2 is what the forest knows of points it has not seen.
- Importance is the fall of that R2, mean and standard deviation over the shufflings.
  Two parameters that say the same share it. It tells of the ranges that were searched, and nothing beyond them.
- Kinds (texts, truth values, lists) are columns of noughts and ones inside, and shuffled as one. A parameter that a point does not have,
  in a conditional space, is missing; the trees know what that is.

Source: Breiman, Random Forests (2001), by scikit-learn's ``permutation_importance``, which takes points the forest was fitted to unless it
is given a scorer that does not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEAST_POINTS = 8
MOST_POINTS = 1_000  # a longer search is told by so many of its points, spread evenly: more would change little
TREES = 200
SHUFFLINGS = 10
LEAST_R2, FAIR_R2 = 0.1, 0.4
SEED = 0


@dataclass(frozen=True)
class Importance:
    """Of one parameter.

    Args:
        key: which.
        mean: fall of R2 when its values are shuffled, which may be more than there was; about 0 or less for one that does not matter.
        spread: standard deviation of that over the shufflings.
    """

    key: str
    mean: float
    spread: float


@dataclass(frozen=True)
class Importances:
    """Of all parameters that vary, and how much of it is to be believed.

    Args:
        parameters: greatest first; none where there was too little to go by.
        num_points: that have counted.
        num_left_out: that have no finite result, or were one too many.
        r2: of the forest out of bag, at most 1; 0 is as good as the mean of all points; nan where no forest was grown.
        sentence: what it means, for people.
    """

    parameters: tuple[Importance, ...]
    num_points: int
    num_left_out: int
    r2: float
    sentence: str


def importances(points: Sequence[Mapping[str, Any]], results: Sequence[float | None]) -> Importances:
    """How much each parameter matters for a result.

    Args:
        points: plain values by key; a key may be missing.
        results: of the points, lower or higher better alike; None, nan and infinite ones are left out.

    Raises:
        ValueError: if there are not as many results as points.
    """
    if len(points) != len(results):
        raise ValueError(f"importances got {len(points)} points and {len(results)} results; each point has one.")
    finite = [(point, float(result)) for point, result in zip(points, results, strict=True) if result is not None and math.isfinite(result)]
    kept = [finite[place] for place in np.linspace(0, len(finite) - 1, MOST_POINTS).astype(int)] if len(finite) > MOST_POINTS else finite
    left_out = len(points) - len(kept)
    table = Table.of([point for point, _ in kept])
    target = np.array([result for _, result in kept])
    if (why := _nothing_to_tell(table, target)) is not None:
        return Importances((), len(kept), left_out, math.nan, why)
    r2, found = _grown(table, target)
    ranked = tuple(sorted(found, key=lambda each: (-each.mean, each.key)))
    return Importances(ranked, len(kept), left_out, r2, words(r2, len(kept)))


def words(r2: float, num_points: int) -> str:
    """What an R2 out of bag allows to say.

    >>> words(0.71, 40)
    'A random forest tells the results of points it has not seen fairly well (R2 0.71, 40 points).'
    """
    known = f"(R2 {r2:.2f}, {num_points:,} points)"
    if r2 < LEAST_R2:
        return f"A random forest cannot tell the results of points it has not seen {known}: these numbers mean nothing."
    if r2 < FAIR_R2:
        return f"A random forest hardly tells the results of points it has not seen {known}: take these numbers as a hint."
    return f"A random forest tells the results of points it has not seen fairly well {known}."


def _nothing_to_tell(table: Table, target: np.ndarray) -> str | None:
    if len(target) < LEAST_POINTS:
        return f"{len(target)} points with a result are too few to say what mattered: it takes at least {LEAST_POINTS}."
    if not table.keys:
        return "No parameter differs among the points that have a result."
    if not np.ptp(target):
        return "All points have the same result: no parameter mattered."
    return None


@dataclass(frozen=True)
class Table:
    """Points as numbers, one column a parameter that differs.

    Args:
        keys: of the columns.
        columns: of shape (points, parameters); nan where a point lacks a number, -1 where it lacks a kind.
        kinds: how many kinds each column has, 0 for one of numbers.
    """

    keys: tuple[str, ...]
    columns: np.ndarray
    kinds: tuple[int, ...]

    @classmethod
    def of(cls, points: Sequence[Mapping[str, Any]]) -> Table:
        """That of some points; parameters with one value everywhere are left out."""
        keys, columns, kinds = [], [], []
        for key in dict.fromkeys(key for point in points for key in point):
            values = [point.get(key) for point in points]
            if len({_as_text(value) for value in values}) > 1:
                column, num_kinds = _column(values)
                keys.append(key)
                columns.append(column)
                kinds.append(num_kinds)
        return cls(tuple(keys), np.column_stack(columns) if columns else np.zeros((len(points), 0)), tuple(kinds))

    def spread_out(self, columns: np.ndarray) -> np.ndarray:
        """Columns as the forest takes them: one of noughts and ones for each kind."""
        parts = []
        for column, num_kinds in zip(columns.T, self.kinds, strict=True):
            parts.append(column[:, None] == np.arange(num_kinds) if num_kinds else column[:, None])
        return np.hstack(parts).astype(np.float32)


def _column(values: Sequence[Any]) -> tuple[np.ndarray, int]:
    """A parameter's values as numbers, and how many kinds they are (0: they are numbers)."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return np.array([math.nan if value is None else float(value) for value in values]), 0
    places = {text: place for place, text in enumerate(dict.fromkeys(map(_as_text, known)))}
    return np.array([-1.0 if value is None else float(places[_as_text(value)]) for value in values]), len(places)


def _as_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _grown(table: Table, target: np.ndarray) -> tuple[float, list[Importance]]:
    """R2 out of bag, and each parameter's importance."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    forest = RandomForestRegressor(TREES, min_samples_leaf=2, bootstrap=True, random_state=SEED, n_jobs=1)
    forest.fit(table.spread_out(table.columns), target)
    unseen = [np.setdiff1d(np.arange(len(target)), drawn) for drawn in forest.estimators_samples_]

    def score(forest: Any, columns: np.ndarray, target: np.ndarray) -> float:
        return _r2_out_of_bag(forest, unseen, table.spread_out(columns), target)

    found = permutation_importance(forest, table.columns, target, scoring=score, n_repeats=SHUFFLINGS, random_state=SEED, n_jobs=1)
    each = zip(table.keys, found.importances_mean, found.importances_std, strict=True)
    return score(forest, table.columns, target), [Importance(key, float(mean), float(spread)) for key, mean, spread in each]


def _r2_out_of_bag(forest: Any, unseen: Sequence[np.ndarray], inputs: np.ndarray, target: np.ndarray) -> float:
    """Each row told by the trees that were grown without it; rows stay in their places, so shuffled columns may be asked too."""
    total, asked = np.zeros(len(target)), np.zeros(len(target))
    for tree, rows in zip(forest.estimators_, unseen, strict=True):
        total[rows] += tree.tree_.predict(inputs[rows]).ravel()
        asked[rows] += 1
    told = asked > 0
    error = np.square(total[told] / asked[told] - target[told]).sum()
    return float(1 - error / np.square(target[told] - target[told].mean()).sum())
