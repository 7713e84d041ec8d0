"""What an accounting system serves to its settlement engine: credits and messages (RFC 0038)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import trio
from quart import Request, Response, request
from quart_trio import QuartTrio

from settled.amounts import Quantity
from settled.errors import InvalidAmount
from settled.testing.books import KeptAnswer

if TYPE_CHECKING:
    from settled.testing.accounting import AccountingSystem


@dataclass(slots=True)
class EngineRequest:
    """One request that an accounting system got from its engine.

    Args:
        kind: which endpoint it was sent to.
        account_id: the account it names, known or not.
        key: its ``Idempotency-Key``.
        body: as it was sent.
        time_s: when it came, by the accounting system's clock.
        amount: of a settlement with a valid Quantity, in the standard unit.
        credited: how much was booked for it: zero when its key was known, or when it failed.
        status: the answer; ``None`` while it is not answered.
        reply_lost: whether the connection was closed in place of the answer.
    """

    kind: Literal["settlement", "message"]
    account_id: str
    key: str | None
    body: bytes
    time_s: float
    amount: Decimal | None = None
    credited: Decimal = Decimal(0)
    status: int | None = None
    reply_lost: bool = False


Handler = Callable[["AccountingSystem", EngineRequest], Awaitable[Response]]
HangUp = Callable[[tuple[str, int]], None]

_OCTETS: Final = "application/octet-stream"


class _Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def make_engine_api(system: AccountingSystem, hang_up: HangUp) -> QuartTrio:
    """Return the app that serves the engine of ``system``.

    ``hang_up`` closes the connection of a client, for the replies that are to be lost.
    """
    app = QuartTrio("settled.testing")

    @app.post("/accounts/<account_id>/settlements")
    async def settlements(account_id: str) -> Response:
        received = await _received(system, request, "settlement", account_id)
        return await _with_faults(system, received, _credit, hang_up)

    @app.post("/accounts/<account_id>/messages")
    async def messages(account_id: str) -> Response:
        received = await _received(system, request, "message", account_id)
        return await _with_faults(system, received, _forward, hang_up)

    return app


async def _received(
    system: AccountingSystem,
    sent: Request,
    kind: Literal["settlement", "message"],
    account_id: str,
) -> EngineRequest:
    body = bytes(await sent.body)
    key = sent.headers.get("Idempotency-Key")
    received = EngineRequest(kind, account_id, key, body, system.clock())
    system.requests.append(received)
    return received


async def _with_faults(
    system: AccountingSystem, received: EngineRequest, handler: Handler, hang_up: HangUp
) -> Response:
    if system.faults.delay_s:
        await trio.sleep(system.faults.delay_s)
    if system.draw(system.faults.fail_rate):
        response = _problem(503, "told to fail: nothing was done")
    else:
        try:
            response = await handler(system, received)
        except _Refused as refused:
            response = _problem(refused.status, str(refused))
        received.reply_lost = system.draw(system.faults.lose_reply_rate)
    received.status = response.status_code
    client = request.scope["client"]
    if received.reply_lost and client is not None:
        hang_up(client)
    return response


async def _credit(system: AccountingSystem, received: EngineRequest) -> Response:
    account = system.accounts.get(received.account_id)
    if account is None:
        raise _Refused(404, f"no account {received.account_id!r}")
    if request.mimetype != "application/json":
        raise _Refused(415, "a settlement must be application/json")
    if not received.key:
        raise _Refused(system.profile.missing_key_status, "no Idempotency-Key")
    quantity = _quantity(received.body)
    received.amount = quantity.value
    kept = system.keys.find(received.key, system.clock())
    if kept is None:
        received.credited = account.credit(quantity.value, system.profile.rounding)
        kept = KeptAnswer(account.id, quantity.value, received.credited, system.clock())
        system.keys.keep(received.key, kept)
    elif system.faults.conflict_on_replay:
        raise _Refused(409, "could not process idempotent data")
    elif system.profile.compares_amounts and (kept.account_id, kept.amount) != (
        account.id,
        quantity.value,
    ):
        raise _Refused(409, "this idempotency key is tied to other input")
    return _credited(system, Quantity.of(kept.credited))


async def _forward(system: AccountingSystem, received: EngineRequest) -> Response:
    if received.account_id not in system.accounts:
        raise _Refused(404, f"no account {received.account_id!r}")
    if request.mimetype != _OCTETS:
        raise _Refused(415, f"a message must be {_OCTETS}")
    reply = await system.send_to_peer(received.account_id, received.body)
    if reply is not None:
        return Response(reply, system.profile.success_status, content_type=_OCTETS)
    if system.profile.failed_message_status >= 300:
        raise _Refused(system.profile.failed_message_status, "the peer did not take the message")
    return Response(b"", system.profile.failed_message_status, content_type=_OCTETS)


def _quantity(body: bytes) -> Quantity:
    try:
        parsed = msgspec.json.decode(body, type=_QuantityBody)
        return Quantity(parsed.amount, parsed.scale)
    except (msgspec.MsgspecError, InvalidAmount) as error:
        raise _Refused(400, str(error)) from error


class _QuantityBody(msgspec.Struct):
    amount: str
    scale: int


def _credited(system: AccountingSystem, quantity: Quantity) -> Response:
    status = system.profile.success_status
    if system.profile.body == "quantity":
        body = msgspec.json.encode({"amount": quantity.amount, "scale": quantity.scale})
        return Response(body, status, content_type="application/json")
    response = Response(b"RECEIVED" if system.profile.body == "text" else b"", status)
    # Neither Interledger.rs nor the RFC names a type for such an answer.
    del response.headers["Content-Type"]
    return response


def _problem(status: int, detail: str) -> Response:
    body = msgspec.json.encode({"title": "Refused", "status": status, "detail": detail})
    return Response(body, status, content_type="application/problem+json")
