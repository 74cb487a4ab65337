"""Measurements of musictrain on this machine; each writes its result to ``benchmarks/results/`` for the README to quote."""
