"""Learning from a stored version of another run: its opinion on every token, its hidden states, or its music."""

from musictrain.distillation.distilling import Distilling, NotDistilling, distilling
from musictrain.distillation.hidden import HiddenMatching
from musictrain.distillation.settings import Distillation
from musictrain.distillation.soft_sums import DistilledLoss

__all__ = ["Distillation", "DistilledLoss", "Distilling", "HiddenMatching", "NotDistilling", "distilling"]
