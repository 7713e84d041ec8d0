"""The endpoints of the connector's API, as plain functions from the parts of a request to a reply.

Whoever speaks HTTP reads a request, calls one of these, and sends what it returns; that is why two
servers side by side cannot differ in what they answer. Every function returns a reply for whatever
the client sent and whatever went wrong. The one exception is ``StoreBroken`` (or a group that holds
one): the outcome of a commit is unknown, and no answer may be given, which ``answered`` sees to.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from typing import Final, NamedTuple, ParamSpec, TypeVar

import msgspec
import structlog
import trio
from outcome import Error, Maybe, Value, capture

from settled import ids
from settled.amounts import Quantity
from settled.core.operations import Operations
from settled.errors import InvalidId, StoreBroken
from settled.http import problems
from settled.http.problems import Refused, error_reply, problem_reply
from settled.http.replies import JSON, OCTET_STREAM, Reply, json_reply
from settled.store.records import Queued, Request

_P = ParamSpec("_P")
_Body = TypeVar("_Body")

log = structlog.get_logger()


class _AccountBody(msgspec.Struct):
    id: str | None = None


class _QuantityBody(msgspec.Struct):
    amount: str
    scale: int


_ACCOUNT: Final = msgspec.json.Decoder(_AccountBody)
_QUANTITY: Final = msgspec.json.Decoder(_QuantityBody)


async def answered(reply: Awaitable[Reply]) -> Reply:
    """Return the reply of an endpoint; never, when nobody knows the outcome.

    Then any answer could be a lie. The store has told the daemon, which is stopping and cancels
    this.
    """
    try:
        return await reply
    except (StoreBroken, ExceptionGroup):
        await trio.sleep_forever()


def _answering(
    endpoint: Callable[_P, Awaitable[Reply]],
) -> Callable[_P, Awaitable[Reply]]:
    """Turn what an endpoint raises into its reply, but for an outcome that nobody knows."""

    @wraps(endpoint)
    async def answering(*args: _P.args, **kwargs: _P.kwargs) -> Reply:
        try:
            return await endpoint(*args, **kwargs)
        except Exception as error:
            reply = _failure_reply(error, endpoint.__name__)
            if reply is None:
                raise
            return reply

    return answering


def _failure_reply(error: Exception, request: str) -> Reply | None:
    """Return the reply to a request that failed, unless the outcome is unknown."""
    if _outcome_unknown(error):
        return None
    reply = error_reply(error)
    if reply is None:
        log.error("request_failed", request=request, exc_info=error)
        reply = problem_reply(problems.INTERNAL_ERROR)
    return reply


@_answering
async def post_account(operations: Operations, *, content_type: str | None, body: bytes) -> Reply:
    """``POST /accounts``: open an account, under an id of ours when the client names none.

    Args:
        operations: what the daemon can do.
        content_type: the Content-Type header, if there is one.
        body: ``{"id": "x"}``, or nothing at all.

    Raises:
        StoreBroken: the outcome is unknown; give no answer.
    """
    account_id = None
    if body:
        _check_media_type(content_type, JSON)
        account_id = _decode(_ACCOUNT, body, example='{"id":"alice"}').id
    return json_reply(201, {"id": await operations.open_account(account_id)})


@_answering
async def delete_account(operations: Operations, account_id: str) -> Reply:
    """``DELETE /accounts/:id``: close an account.

    Args:
        operations: what the daemon can do.
        account_id: the id as it stands in the path, percent-decoded.

    Raises:
        StoreBroken: the outcome is unknown; give no answer.
    """
    await operations.close_account(ids.check_account_id(account_id))
    return Reply(204)


class PostSettlement(NamedTuple):
    """A ``POST /accounts/:id/settlements``.

    Attributes:
        account_id: the id as it stands in the path, percent-decoded.
        content_type: the Content-Type header, if there is one.
        keys: every Idempotency-Key header of the request; there must be one.
        body: a Quantity, such as ``{"amount": "100", "scale": 2}``.
    """

    account_id: str
    content_type: str | None
    keys: Sequence[str]
    body: bytes


@_answering
async def post_settlement(operations: Operations, post: PostSettlement) -> Reply:
    """``POST /accounts/:id/settlements``: queue a settlement, once per idempotency key.

    Raises:
        StoreBroken: the outcome is unknown; give no answer.
    """
    return _settlement_reply(await operations.queue_settlement(_read_settlement(post)))


class PostSettlements:
    """Many of them at once, and without a task that waits.

    Args:
        operations: what the daemon can do.
        posts: the requests.
    """

    __slots__ = ("_operations", "_read", "_results")

    def __init__(self, operations: Operations, posts: Sequence[PostSettlement]) -> None:
        self._operations = operations
        self._read = [capture(_read_settlement, post) for post in posts]
        self._results: Sequence[Maybe[Queued]] = ()

    def begin(self, done: Callable[[], None]) -> None:
        """Have them recorded; ``done`` is called, by any thread, when there is a reply to each."""
        requests = [request.value for request in self._read if isinstance(request, Value)]

        def keep(results: Sequence[Maybe[Queued]]) -> None:
            self._results = results
            done()

        try:
            self._operations.begin_settlements(requests, keep)
        except Exception as error:
            keep([Error(error) for _ in requests])  # each can be unwrapped once

    def replies(self) -> list[Reply | None]:
        """Return the reply to each; ``None``: its outcome is unknown, and none may be given."""
        results = iter(self._operations.end_settlements(self._results))
        return [
            _reply_or_none(request if isinstance(request, Error) else next(results))
            for request in self._read
        ]


def _read_settlement(post: PostSettlement) -> Request:
    ids.check_account_id(post.account_id)
    key = _check_key(post.keys)
    _check_media_type(post.content_type, JSON)
    parts = _decode(_QUANTITY, post.body, example='{"amount":"100","scale":2}')
    return Request(post.account_id, Quantity(parts.amount, parts.scale), key)


def _settlement_reply(quantity: Quantity) -> Reply:
    return json_reply(201, {"amount": quantity.amount, "scale": quantity.scale})


def _reply_or_none(result: Maybe[Quantity]) -> Reply | None:
    try:
        return _settlement_reply(result.unwrap())
    except Exception as error:
        return _failure_reply(error, "post_settlement")


@_answering
async def post_message(
    operations: Operations, account_id: str, *, content_type: str | None, body: bytes
) -> Reply:
    """``POST /accounts/:id/messages``: hand a message of the peer's engine to ours.

    Args:
        operations: what the daemon can do.
        account_id: the id as it stands in the path, percent-decoded.
        content_type: the Content-Type header, if there is one.
        body: the message.

    Raises:
        StoreBroken: the outcome is unknown; give no answer.
    """
    ids.check_account_id(account_id)
    if body:
        _check_media_type(content_type, OCTET_STREAM)
    return Reply(201, await operations.handle_message(account_id, body), OCTET_STREAM)


def _outcome_unknown(error: Exception) -> bool:
    if isinstance(error, ExceptionGroup):
        return error.subgroup(StoreBroken) is not None
    return isinstance(error, StoreBroken)


def _check_media_type(content_type: str | None, wanted: str) -> None:
    """Refuse a body of another kind; this also bars forms that a web page posts across sites."""
    if content_type is None or content_type == wanted:
        return
    media_type = content_type.partition(";")[0].strip().lower()
    is_json = media_type.startswith("application/") and media_type.endswith("+json")
    if media_type != wanted and not (wanted == JSON and is_json):
        raise Refused(problems.UNSUPPORTED_MEDIA_TYPE, f"send Content-Type: {wanted}")


def _check_key(keys: Sequence[str]) -> str:
    if len(keys) != 1:
        raise Refused(
            problems.INVALID_KEY,
            f"send exactly one Idempotency-Key header (there were {len(keys)}), such as a UUID, "
            f"and the same one when sending this request again",
        )
    try:
        return ids.check_key(keys[0])
    except InvalidId as error:
        raise Refused(problems.INVALID_KEY, f"{error}, such as a UUID") from None


def _decode(decoder: msgspec.json.Decoder[_Body], body: bytes, *, example: str) -> _Body:
    try:
        # As text first: the decoder skips over bad UTF-8 in the fields that it ignores.
        return decoder.decode(body.decode())
    except (ValueError, RecursionError) as error:
        # Only msgspec's own words: those of other errors may be about our internals.
        reason = str(error) if isinstance(error, msgspec.DecodeError) else "it is not plain JSON"
        raise Refused(problems.INVALID_BODY, f"{reason}: send JSON like {example}") from None
