"""Connectors, peers and engines that are broken, hostile or badly written."""

import os
from typing import Final

ALL: Final = os.environ.get("NEIGHBOURS") == "all"  # else a sample of what takes long
