"""The live page, the report and the overview of all runs: a run folder read and drawn. Needs neither torch nor lightning."""
