"""The client for the connector, the accounting system that we settle for.

RFC 0038, "Accounting System HTTP API". Redirects and proxies are not followed: money talks only to
the address that it was given.
"""

from collections.abc import Callable
from typing import Final

import msgspec
import trio

from settled import limits
from settled.amounts import Quantity
from settled.courier import Courier
from settled.errors import MessageFailed
from settled.exchange import NotReached, answer_to
from settled.server import Server, header_line, header_lines
from settled.store.records import Ambiguous, Credit, Delivered, DeliveryOutcome, NotDelivered
from settled.text import one_line

# RFC 9110, 15.4: after 302 and 303 a client may ask for the result of what it has sent.
_ELSEWHERE: Final = frozenset({301, 307, 308})
_UNCLEAR: Final = (408, 409)

_CREDIT_HEADERS: Final = header_lines(
    {"Content-Type": "application/json", "Accept": "application/json, */*"}
)
_MESSAGE_HEADERS: Final = header_lines(
    {"Content-Type": "application/octet-stream", "Accept": "*/*"}
)


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
        self._courier = Courier(self._server.kept)
        self._messages = trio.CapacityLimiter(limits.MESSAGES_MAX)

    async def keep_connections(self) -> None:
        """Keep connections for the next credits, until cancelled; else each has one of its own."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._server.keep_connections)
            nursery.start_soon(self._courier.run)

    async def deliver(self, credit: Credit) -> DeliveryOutcome:
        """Tell the connector of an incoming settlement, once, and say how that went.

        Any 2xx is an acknowledgement. A 4xx is a clear refusal, but 409, which may stand for a
        request that was processed before, and 408, which may have been meant for the connection
        while it rested (RFC 9110, 15.5.9). So is a redirect that says to send the same request
        elsewhere; the others may follow on a request that was processed. Everything else that
        happens after the request was sent is ambiguous.
        """
        try:
            path, body, headers = _asked(credit)
            sending = self._server.post(
                path,
                body,
                headers,
                body_bytes_max=limits.CONNECTOR_REPLY_BYTES_MAX,
                repeatable=True,
            )
            due_s = trio.current_time() + limits.CONNECTOR_TIMEOUT_S
            status, _ = await answer_to(sending, due_s)
        except NotReached as error:
            return NotDelivered(
                f"the connector at {self.shown_url} was not reached: {_text(error)}"
            )
        except Exception as error:  # whatever its answer made our client stumble over
            return self._outcome(error)
        return self._outcome(status)

    def deliver_at_once(self, credit: Credit, told: Callable[[DeliveryOutcome], None]) -> bool:
        """Do the same without waiting, if a connection is there; tell later how that went.

        Returns whether it was sent. What ``keep_connections`` has under way when it is cancelled is
        not told of.
        """
        return self._courier.send(
            lambda: self._server.request(*_asked(credit), keep=True),
            lambda answer: told(self._outcome(answer)),
        )

    def _outcome(self, answer: int | Exception) -> DeliveryOutcome:
        """Return what the answer to a request that was sent says: its status, or why it is none."""
        if isinstance(answer, Exception):
            return Ambiguous(
                f"no clear answer from the connector at {self.shown_url}: {_text(answer)}"
            )
        if 200 <= answer < 300:
            return Delivered()
        if answer in _ELSEWHERE or (400 <= answer < 500 and answer not in _UNCLEAR):
            return NotDelivered(f"the connector refused it with status {answer}: see its log")
        return Ambiguous(f"the connector answered with status {answer}: see its log")

    async def send_message(self, account_id: str, body: bytes) -> bytes:
        """Send a message to the peer's engine, through both connectors; return the reply.

        Raises:
            MessageFailed: when there was no answer, an empty one, or a status other than 2xx.
        """
        try:
            async with self._messages:
                sending = self._server.post(
                    f"/accounts/{account_id}/messages",
                    body,
                    _MESSAGE_HEADERS,
                    body_bytes_max=limits.CONNECTOR_REPLY_BYTES_MAX,
                    repeatable=False,
                )
                due_s = trio.current_time() + limits.MESSAGE_TIMEOUT_S
                status, reply = await answer_to(sending, due_s)
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


def _asked(credit: Credit) -> tuple[str, bytes, str]:
    """Return path, body and headers of the request that tells of the credit."""
    quantity = Quantity.of(credit.amount)
    body = msgspec.json.encode({"amount": quantity.amount, "scale": quantity.scale})
    headers = header_line("Idempotency-Key", credit.id) + _CREDIT_HEADERS
    return f"/accounts/{credit.account_id}/settlements", body, headers


def _text(error: Exception) -> str:
    if isinstance(error, trio.TooSlowError):
        return "time-out"
    return one_line(error) or type(error).__name__
