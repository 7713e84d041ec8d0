"""The ``settled`` command; each command lives in the module of its name."""

from settled.cli.group import MainGroup
from settled.cli.root import main

__all__ = ["MainGroup", "main"]
