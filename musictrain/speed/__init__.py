"""Where the time of a run goes: phases on a clock, music read, FLOPs of a network, peak of a device.

Anything that trains can tell the clock what it is doing, at the cost of two readings of the clock, and nothing where nobody listens::

    from musictrain.speed import phase

    with phase("sampling"):
        ...
"""

from musictrain.speed.phases import PHASES, phase

__all__ = ["PHASES", "phase"]
