"""What the core asks of the floors above it: the engine and the connector, as it sees them."""

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, Protocol

from settled.store.records import Credit, DeliveryOutcome


class EnginePort(Protocol):
    """An engine that was checked: what it lacks is ``None``."""

    @property
    def settle(self) -> Callable[[str, Decimal, str], Awaitable[object]]: ...
    @property
    def setup_account(self) -> Callable[[str], Awaitable[None]] | None: ...
    @property
    def close_account(self) -> Callable[[str], Awaitable[None]] | None: ...
    @property
    def handle_message(self) -> Callable[[str, Any], Awaitable[Any]] | None: ...
    @property
    def find_settlement(self) -> Callable[[str, str], Awaitable[object]] | None: ...
    @property
    def asset_scale(self) -> int | None: ...
    @property
    def raw_messages(self) -> bool: ...


class ConnectorPort(Protocol):
    """What brings credits to the connector."""

    async def deliver(self, credit: Credit) -> DeliveryOutcome:
        """Send a credit, once, and say how that went.

        It never raises for what the connector does, and takes ``limits.CONNECTOR_TIMEOUT_S`` at
        most.
        """
        ...

    def deliver_at_once(self, credit: Credit, told: Callable[[DeliveryOutcome], None]) -> bool:
        """Do the same without waiting, if that can be done; return whether it is sent.

        Then ``told`` is called later, and once; not if all is cancelled meanwhile.
        """
        ...
