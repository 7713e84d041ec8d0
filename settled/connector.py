"""The client for the connector, the accounting system that we settle for.

RFC 0038, "Accounting System HTTP API". Redirects and proxies are not followed: money talks only to
the address that it was given.
"""

from typing import Final

import msgspec
import trio

from settled import limits
from settled.amounts import Quantity
from settled.errors import MessageFailed
from settled.exchange import NotReached, Server
from settled.store.records import Ambiguous, Credit, Delivered, DeliveryOutcome, NotDelivered
from settled.text import one_line

# RFC 9110, 15.4: after 302 and 303 a client may ask for the result of what it has sent.
_ELSEWHERE: Final = frozenset({301, 307, 308})
_UNCLEAR: Final = (408, 409)


class Connector:
    """The connector at one URL, such as ``http://localhost:7771``.

    Args:
        url: where it takes credits and messages.
        server: how it is reached, if not over the network.

    Raises:
        ConfigError: when the URL is none.
    """

    def __init__(self, url: str, *, server: Server | None = None) -> None:
        self._server = Server(url) if server is None else server
        self.shown_url = self._server.shown_url  # without what may be secret in it
        # Slow messages do not hold back credits.
        self._deliveries = trio.CapacityLimiter(limits.DELIVERIES_MAX)
        self._messages = trio.CapacityLimiter(limits.MESSAGES_MAX)

    async def keep_connections(self) -> None:
        """Keep connections for the next credits, until cancelled; else each has one of its own."""
        await self._server.keep_connections()

    async def deliver(self, credit: Credit) -> DeliveryOutcome:
        """Tell the connector of an incoming settlement, once, and say how that went.

        Any 2xx is an acknowledgement. A 4xx is a clear refusal, but 409, which may stand for a
        request that was processed before, and 408, which may have been meant for the connection
        while it rested (RFC 9110, 15.5.9). So is a redirect that says to send the same request
        elsewhere; the others may follow on a request that was processed. Everything else that
        happens after the request was sent is ambiguous.
        """
        quantity = Quantity.of(credit.amount)
        try:
            status, _ = await self._post(
                f"/accounts/{credit.account_id}/settlements",
                self._deliveries,
                msgspec.json.encode({"amount": quantity.amount, "scale": quantity.scale}),
                headers={
                    "Idempotency-Key": credit.id,
                    "Content-Type": "application/json",
                    "Accept": "application/json, */*",
                },
                timeout_s=limits.CONNECTOR_TIMEOUT_S,
                repeatable=True,
            )
        except NotReached as error:
            return NotDelivered(
                f"the connector at {self.shown_url} was not reached: {_text(error)}"
            )
        except Exception as error:  # whatever its answer made our client stumble over
            return Ambiguous(
                f"no clear answer from the connector at {self.shown_url}: {_text(error)}"
            )
        if 200 <= status < 300:
            return Delivered()
        if status in _ELSEWHERE or (400 <= status < 500 and status not in _UNCLEAR):
            return NotDelivered(f"the connector refused it with status {status}: see its log")
        return Ambiguous(f"the connector answered with status {status}: see its log")

    async def send_message(self, account_id: str, body: bytes) -> bytes:
        """Send a message to the peer's engine, through both connectors; return the reply.

        Raises:
            MessageFailed: when there was no answer, an empty one, or a status other than 2xx.
        """
        try:
            status, reply = await self._post(
                f"/accounts/{account_id}/messages",
                self._messages,
                body,
                headers={"Content-Type": "application/octet-stream", "Accept": "*/*"},
                timeout_s=limits.MESSAGE_TIMEOUT_S,
                repeatable=False,
            )
        except Exception as error:
            raise MessageFailed(
                f"account {account_id}: no answer from the connector at {self.shown_url}: "
                f"{_text(error)}"
            ) from error
        if not 200 <= status < 300:
            raise MessageFailed(
                f"account {account_id}: the connector answered the message with status {status}; "
                f"the peer may not be ready"
            )
        if reply is None:
            raise MessageFailed(f"account {account_id}: the peer's answer broke off or is too long")
        if not reply:
            raise MessageFailed(f"account {account_id}: the peer's answer is empty")
        return reply

    async def _post(
        self,
        path: str,
        places: trio.CapacityLimiter,
        body: bytes,
        *,
        headers: dict[str, str],
        timeout_s: float,
        repeatable: bool,
    ) -> tuple[int, bytes | None]:
        """Return the status and the body: ``None`` if it broke off, was slow or is too long.

        What happens to the body does not change what the status said.
        """
        exchange, reply = None, None
        async with places:
            try:
                with trio.move_on_after(timeout_s):
                    exchange = await self._server.post(
                        path,
                        body,
                        headers,
                        body_bytes_max=limits.CONNECTOR_REPLY_BYTES_MAX,
                        repeatable=repeatable,
                    )
                    reply = await exchange.body()
            finally:
                if exchange is not None:
                    await exchange.aclose()
        if exchange is None:
            raise trio.TooSlowError
        return exchange.status, reply


def _text(error: Exception) -> str:
    if isinstance(error, trio.TooSlowError):
        return "time-out"
    return one_line(error) or type(error).__name__
