"""Going back to the last good version of a run and passing over the batches that spoiled it, without leaving the program."""

from musictrain.rolling_back.choosing import last_trusted
from musictrain.rolling_back.fitting import fit
from musictrain.rolling_back.requesting import StepTrail, attempt_of, roll_back, rolled_back_before, why_not
from musictrain.rolling_back.settling import settle_rollbacks
from musictrain.runs.rollbacks import Rollback, RolledBack, read_rollbacks

__all__ = [
    "Rollback",
    "RolledBack",
    "StepTrail",
    "attempt_of",
    "fit",
    "last_trusted",
    "read_rollbacks",
    "roll_back",
    "rolled_back_before",
    "settle_rollbacks",
    "why_not",
]
