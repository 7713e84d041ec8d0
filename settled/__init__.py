"""Framework and daemon for Interledger settlement engines.

An engine author writes ``settle`` and calls ``credit_settlement``; accounting, idempotency,
durability, retries, the HTTP API and the operator's tools are here. Start with
``docs/engine-authors.md``.
"""

from settled.amounts import Quantity
from settled.daemon import Daemon, serve
from settled.engine.options import option
from settled.engine.protocol import Connect, Engine
from settled.engine.services import Services, State, Transaction
from settled.errors import (
    AccountNotFound,
    ConfigError,
    InvalidAmount,
    MessageFailed,
    NotSettled,
    SettledError,
    SettlementConflict,
)
from settled.store.sqlite import open_sqlite
from settled.version import VERSION as __version__

__all__ = [
    "AccountNotFound",
    "ConfigError",
    "Connect",
    "Daemon",
    "Engine",
    "InvalidAmount",
    "MessageFailed",
    "NotSettled",
    "Quantity",
    "Services",
    "SettledError",
    "SettlementConflict",
    "State",
    "Transaction",
    "__version__",
    "open_sqlite",
    "option",
    "serve",
]
