"""settled with a clock of keys that ticks within seconds, to see expired ones being removed."""

from typing import Final

from settled import limits
from settled.cli import main

KEY_TICK_S: Final = 2

if __name__ == "__main__":
    limits.KEY_TICK_S = KEY_TICK_S  # type: ignore[misc]
    main()
