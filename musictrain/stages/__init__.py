"""A protocol of several training stages, one after the other, that is started by one command and goes on where it was.

Everything here is plain Python and imports no torch: what a protocol says (``protocol``), the configuration of each stage (``extending``,
``merging``, ``resolving``), what stages say of one another (``references``), what was done so far (``state``), what is to be done next
(``planning``), and how long it takes (``progress``). The commands that start processes are in ``musictrain.cli.stages``.
"""
