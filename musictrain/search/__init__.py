"""A search over hyper-parameters whose trials are whole runs, that goes on wherever it was killed and trains nothing twice.

Everything here is plain Python and imports neither torch nor lightning: what a search is (``definition``, ``reading``), the points of its
space (``distributions``, ``conditions``, ``constraints``, ``space``, ``points``), what keys stand for (``keys``), when two runs are one
(``identity``), what each trial is given (``resolving``), what was done and what is next (``ledger``, ``rules``, ``plan``), and what came
of it (``objectives``, ``results``). The commands that start processes are in ``musictrain.cli.search``.
"""
