"""The client for the connector, the accounting system that we settle for.

RFC 0038, "Accounting System HTTP API". Redirects and proxies are not followed: money talks only to
the address that it was given. Each request has a connection of its own: on one that is used again,
a late second answer to the request before would pass for the answer to this one.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx2
import trio

from settled import limits
from settled.amounts import Quantity
from settled.errors import MessageFailed
from settled.store.records import Ambiguous, Credit, Delivered, DeliveryOutcome, NotDelivered
from settled.text import one_line

# Raised before a single byte of the request was sent.
_NOT_REACHED: Final = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.UnsupportedProtocol,
    httpx2.InvalidURL,
)

# RFC 9110, 15.4: after 302 and 303 a client may ask for the result of what it has sent.
_ELSEWHERE: Final = frozenset({301, 307, 308})


class Connector:
    """The connector at one URL; made by ``open_connector``."""

    def __init__(self, client: httpx2.AsyncClient, url: str) -> None:
        self._client = client
        self._url = url.rstrip("/")
        # The pool never makes a request wait, so every time-out is the connector's own, and slow
        # messages do not hold back credits.
        self._deliveries = trio.CapacityLimiter(limits.DELIVERIES_MAX)
        self._messages = trio.CapacityLimiter(limits.MESSAGES_MAX)

    async def deliver(self, credit: Credit) -> DeliveryOutcome:
        """Tell the connector of an incoming settlement, once, and say how that went.

        Any 2xx is an acknowledgement. A 4xx is a clear refusal, but 409: it may stand for a request
        that was processed before. So is a redirect that says to send the same request elsewhere;
        the others may follow on a request that was processed. Everything else that happens after
        the request was sent is ambiguous.
        """
        quantity = Quantity.of(credit.amount)
        try:
            status, _ = await self._post(
                f"/accounts/{credit.account_id}/settlements",
                self._deliveries,
                json={"amount": quantity.amount, "scale": quantity.scale},
                headers={"Idempotency-Key": credit.id, "Accept": "application/json, */*"},
                timeout_s=limits.CONNECTOR_TIMEOUT_S,
            )
        except _NOT_REACHED as error:
            return NotDelivered(
                f"the connector at {self.shown_url} was not reached: {_text(error)}"
            )
        except Exception as error:  # whatever its answer made our client stumble over
            return Ambiguous(f"the connector gave no clear answer: {_text(error)}")
        if 200 <= status < 300:
            return Delivered()
        if status in _ELSEWHERE or (400 <= status < 500 and status != 409):
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
                content=body,
                headers={"Content-Type": "application/octet-stream", "Accept": "*/*"},
                timeout_s=limits.MESSAGE_TIMEOUT_S,
            )
        except Exception as error:
            raise MessageFailed(
                f"account {account_id}: no answer from the connector at {self.shown_url} "
                f"({_text(error)})"
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
        connections: trio.CapacityLimiter,
        *,
        headers: dict[str, str],
        timeout_s: float,
        json: object = None,
        content: bytes | None = None,
    ) -> tuple[int, bytes | None]:
        """Return the status and the body: ``None`` if it broke off, was slow or is too long.

        What happens to the body does not change what the status said.
        """
        headers = {**headers, "Accept-Encoding": "identity", "Connection": "close"}
        request = self._client.build_request(
            "POST", self._url + path, json=json, content=content, headers=headers
        )
        async with connections:
            deadline = trio.current_time() + timeout_s
            with trio.fail_at(deadline):
                response = await self._client.send(request, stream=True)
            try:
                with trio.move_on_at(deadline):
                    return response.status_code, await _body(response)
                return response.status_code, None
            finally:
                with trio.CancelScope(shield=True):  # else the pool would keep its slot
                    await response.aclose()

    @property
    def shown_url(self) -> str:
        """The URL without what may be secret in it."""
        url = httpx2.URL(self._url)
        return f"{url.scheme}://{url.host}:{url.port or ''}".rstrip(":")


@asynccontextmanager
async def open_connector(url: str) -> AsyncIterator[Connector]:
    """Open a client for the connector at ``url``, such as ``http://localhost:7771``."""
    timeout = httpx2.Timeout(
        limits.MESSAGE_TIMEOUT_S, connect=limits.CONNECTOR_CONNECT_TIMEOUT_S, pool=None
    )
    connections = limits.DELIVERIES_MAX + limits.MESSAGES_MAX
    pool = httpx2.Limits(max_connections=connections, max_keepalive_connections=0)
    async with httpx2.AsyncClient(
        timeout=timeout, limits=pool, trust_env=False, follow_redirects=False
    ) as client:
        yield Connector(client, url)


async def _body(response: httpx2.Response) -> bytes | None:
    body = bytearray()
    # Leaving the loop early would leave the client's generators open; cancelled, they all end.
    with trio.CancelScope() as too_long:
        try:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > limits.CONNECTOR_REPLY_BYTES_MAX:
                    body.clear()
                    too_long.cancel()
        except Exception:  # whatever it made our client stumble over
            return None
    return None if too_long.cancel_called else bytes(body)


def _text(error: Exception) -> str:
    if isinstance(error, trio.TooSlowError):
        return "time-out"
    return one_line(error) or type(error).__name__
