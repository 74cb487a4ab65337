"""When a run should stop, and which of its versions may not be called best: rules in plain Python on a few numbers of each validation.

Standard library only; ``musictrain.callbacks.MusicalEarlyStopping`` obeys them in a Trainer.
"""

from musictrain.stopping.combining import COMBINATIONS
from musictrain.stopping.guards import GUARDS, Guard
from musictrain.stopping.rule import StoppingRule, Verdict
from musictrain.stopping.watches import Watch

__all__ = ["COMBINATIONS", "GUARDS", "Guard", "StoppingRule", "Verdict", "Watch"]
