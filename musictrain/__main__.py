"""``python -m musictrain``."""

from __future__ import annotations

import sys

from musictrain.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
