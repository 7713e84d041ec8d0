"""What engine authors import in their tests: a connector that can misbehave, a store in memory.

See ``docs/engine-authors.md`` for how to test an engine with them.
"""

from settled.store.memory import MemoryStore
from settled.testing.accounting import (
    AccountingSystem,
    SettlementPost,
    accounting_system,
    accounting_systems,
    connect_peers,
)
from settled.testing.books import PeerAccount
from settled.testing.engine_api import EngineRequest
from settled.testing.faults import Faults, ProfileName

__all__ = [
    "AccountingSystem",
    "EngineRequest",
    "Faults",
    "MemoryStore",
    "PeerAccount",
    "ProfileName",
    "SettlementPost",
    "accounting_system",
    "accounting_systems",
    "connect_peers",
]
