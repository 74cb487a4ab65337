"""What a curriculum says of each batch, in plain Python: standard library and numpy only."""

from musictrain.curriculum.course import Course, Decision
from musictrain.curriculum.dial import WHOLE, Dial
from musictrain.curriculum.pacing import Pacing, Shift

__all__ = ["WHOLE", "Course", "Decision", "Dial", "Pacing", "Shift"]
