"""Problems: every error that the HTTP API answers with, as RFC 9457 ``application/problem+json``.

``docs/http.md`` lists them for the readers of the API; a test compares it with this module.
"""

from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

import msgspec

from settled import limits
from settled.errors import (
    AccountNotFound,
    HandlerFailed,
    InvalidAmount,
    InvalidId,
    KeyReused,
    MessageRefused,
    StoreBusy,
    StoreFull,
)
from settled.http.replies import Reply

CONTENT_TYPE: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of problem. Its name and status never change, so that clients may rely on them.

    Args:
        name: the end of the problem's ``type`` URI.
        status: the HTTP status that it is always sent with.
        title: what is wrong, in a few words, the same for every occurrence.
        advice: the ``detail`` of an occurrence that has none of its own: what to do.
    """

    name: str
    status: int
    title: str
    advice: str = ""

    @property
    def type(self) -> str:
        """The problem's ``type`` URI."""
        return f"urn:settled:problem:{self.name}"


BAD_REQUEST: Final = Problem(
    "bad-request",
    400,
    "The request cannot be read",
    "send the request as the API table of docs/http.md shows it",
)
INVALID_ACCOUNT_ID: Final = Problem("invalid-account-id", 400, "The account id is not valid")
INVALID_KEY: Final = Problem(
    "invalid-idempotency-key", 400, "The Idempotency-Key is missing or not valid"
)
INVALID_BODY: Final = Problem(
    "invalid-body", 400, "The body is not the JSON that this endpoint takes"
)
INVALID_QUANTITY: Final = Problem("invalid-quantity", 400, "The Quantity cannot be settled")
KEY_REUSED: Final = Problem(
    "idempotency-key-reused", 400, "The Idempotency-Key was used for another amount"
)
MESSAGE_REFUSED: Final = Problem("message-refused", 400, "This engine does not take such a message")
ACCOUNT_NOT_FOUND: Final = Problem("account-not-found", 404, "There is no such account")
NOT_FOUND: Final = Problem(
    "not-found",
    404,
    "There is nothing at this path",
    "the paths are /accounts, /accounts/:id, /accounts/:id/settlements and /accounts/:id/messages; "
    "/openapi.yaml describes them",
)
METHOD_NOT_ALLOWED: Final = Problem(
    "method-not-allowed",
    405,
    "This path does not take this method",
    "use one of the methods in the Allow header",
)
REQUEST_TIMEOUT: Final = Problem(
    "request-timeout",
    408,
    "The body did not arrive in time",
    f"send the whole body within {limits.BODY_TIMEOUT_S} s; nothing was recorded",
)
BODY_TOO_LARGE: Final = Problem(
    "body-too-large",
    413,
    "The body is too large",
    f"send at most {limits.BODY_BYTES_MAX} bytes; nothing was recorded",
)
CROSS_SITE: Final = Problem(
    "cross-site",
    403,
    "The request comes from a web page",
    "connectors send no Origin header; a browser that sends one is not let in",
)
UNSUPPORTED_MEDIA_TYPE: Final = Problem(
    "unsupported-media-type", 415, "This endpoint does not take this Content-Type"
)
INTERNAL_ERROR: Final = Problem(
    "internal-error",
    500,
    "The settlement engine failed",
    "nothing was recorded; send the same request again later; its operator's log has the reason",
)
HANDLER_FAILED: Final = Problem(
    "handler-failed",
    500,
    "The engine could not answer the message",
    "the engine's handler failed or took too long; "
    "sending the message again is safe; its operator's log has the reason",
)
STORE_BUSY: Final = Problem(
    "store-busy",
    503,
    "The store is busy",
    "nothing was recorded; send the same request again after Retry-After",
)
STORE_FULL: Final = Problem(
    "store-full",
    503,
    "There is no room for new work",
    "nothing was recorded; send the same request again after Retry-After; the disk of this engine "
    "is nearly full, and its operator must free some space",
)

PROBLEMS: Final = tuple(value for value in list(globals().values()) if isinstance(value, Problem))

_BY_STATUS: Final = {
    problem.status: problem
    for problem in (
        BAD_REQUEST,
        NOT_FOUND,
        METHOD_NOT_ALLOWED,
        REQUEST_TIMEOUT,
        BODY_TOO_LARGE,
        UNSUPPORTED_MEDIA_TYPE,
        INTERNAL_ERROR,
    )
}

# These messages are about what the client sent, so he may read them.
_BY_CLIENT_ERROR: Final[dict[type[Exception], Problem]] = {
    InvalidId: INVALID_ACCOUNT_ID,
    InvalidAmount: INVALID_QUANTITY,
    KeyReused: KEY_REUSED,
    MessageRefused: MESSAGE_REFUSED,
    AccountNotFound: ACCOUNT_NOT_FOUND,
}

# These are for the operator; the client gets the problem's own advice.
_BY_SERVER_ERROR: Final[dict[type[Exception], Problem]] = {
    HandlerFailed: HANDLER_FAILED,
    StoreBusy: STORE_BUSY,
    StoreFull: STORE_FULL,
}


class Refused(Exception):
    """A request that an endpoint will not take, as the problem to answer with."""

    def __init__(self, problem: Problem, detail: str) -> None:
        super().__init__(detail)
        self.problem = problem
        self.detail = detail


def problem_reply(problem: Problem, detail: str | None = None) -> Reply:
    """Return the reply that reports a problem.

    Args:
        problem: which one.
        detail: what happened this time and what to do; the problem's own advice if there is none.

    Example::

        >>> problem_reply(STORE_BUSY).headers
        (('Retry-After', '1'),)
    """
    body = {
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        "detail": detail or problem.advice,
    }
    headers: tuple[tuple[str, str], ...] = ()
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers = (("Retry-After", str(limits.RETRY_AFTER_S)),)
    return Reply(problem.status, msgspec.json.encode(body), CONTENT_TYPE, headers)


def status_reply(status: int, *, allow: tuple[str, ...] = ()) -> Reply:
    """Return the reply for an error that the web framework found.

    Args:
        status: the HTTP status that the framework wants to send.
        allow: the methods that the path takes, for a 405.
    """
    default = BAD_REQUEST if status < 500 else INTERNAL_ERROR
    reply = problem_reply(_BY_STATUS.get(status, default))
    return replace(reply, headers=(("Allow", ", ".join(allow)),)) if allow else reply


def error_reply(error: Exception) -> Reply | None:
    """Return the reply for an error of settled, or ``None`` for one that nobody foresaw."""
    if isinstance(error, Refused):
        return problem_reply(error.problem, error.detail)
    for kind in type(error).__mro__:
        if kind in _BY_CLIENT_ERROR:
            return problem_reply(_BY_CLIENT_ERROR[kind], str(error))
        if kind in _BY_SERVER_ERROR:
            return problem_reply(_BY_SERVER_ERROR[kind])
    return None
