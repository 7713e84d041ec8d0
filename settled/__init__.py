"""Framework and daemon for Interledger settlement engines.

An engine author writes ``settle`` and calls ``credit_settlement``; accounting, idempotency,
durability, retries, the HTTP API and the operator's tools are here. Start with
``docs/engine-authors.md``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from settled.amounts import Quantity
from settled.engine.options import option
from settled.engine.protocol import Connect, Engine
from settled.errors import (
    AccountNotFound,
    ConfigError,
    InvalidAmount,
    MessageFailed,
    MessageRefused,
    NotSettled,
    SettledError,
    SettlementConflict,
    SettlementPending,
    StateChanged,
)
from settled.version import VERSION as __version__

__all__ = [
    "AccountNotFound",
    "ConfigError",
    "Connect",
    "Daemon",
    "Engine",
    "InvalidAmount",
    "MessageFailed",
    "MessageRefused",
    "NotSettled",
    "Quantity",
    "Services",
    "SettledError",
    "SettlementConflict",
    "SettlementPending",
    "State",
    "StateChanged",
    "Transaction",
    "__version__",
    "open_sqlite",
    "option",
    "serve",
]

if TYPE_CHECKING:
    from settled.daemon import Daemon, serve
    from settled.engine.services import Services, State, Transaction
    from settled.store.sqlite import open_sqlite

# Imported when first used: the command line starts without the server's libraries.
_LAZY = {
    "Daemon": "settled.daemon",
    "Services": "settled.engine.services",
    "State": "settled.engine.services",
    "Transaction": "settled.engine.services",
    "open_sqlite": "settled.store.sqlite",
    "serve": "settled.daemon",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
