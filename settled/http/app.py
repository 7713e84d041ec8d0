"""The Quart app: thin views over the endpoints in ``settled.http.handlers``.

Routing, reading the body within its limits and HTTP's own errors are Quart's part; what is
answered is not decided here.
"""

from collections.abc import Awaitable
from importlib.resources import files
from typing import Final

from quart import request
from quart_trio import QuartTrio
from quart_trio.wrappers import TrioResponse
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from settled import limits
from settled.core.operations import Operations
from settled.http import handlers
from settled.http.edge import edge
from settled.http.problems import CROSS_SITE, problem_reply, status_reply
from settled.http.replies import Reply

_OPENAPI: Final = (files("settled") / "http/openapi.yaml").read_bytes()


def make_app(operations: Operations) -> QuartTrio:
    """Return the ASGI app that serves the connector's API.

    Args:
        operations: what the daemon can do.

    Example::

        await serve_http(make_app(operations), bind("127.0.0.1:3000"), ...)
    """
    app = QuartTrio("settled.http", static_folder=None)
    app.config.update(
        MAX_CONTENT_LENGTH=limits.BODY_BYTES_MAX,
        BODY_TIMEOUT=limits.BODY_TIMEOUT_S,
        # Whatever QUART_DEBUG says: a traceback is no answer to a connector.
        DEBUG=False,
        PROPAGATE_EXCEPTIONS=False,
    )
    app.before_request(_refuse_web_pages)
    _add_views(app, operations)
    app.register_error_handler(HTTPException, _http_error)
    app.asgi_app = edge(app.asgi_app)  # type: ignore[method-assign, assignment]
    return app


def _add_views(app: QuartTrio, operations: Operations) -> None:
    async def open_account() -> TrioResponse:
        body = await _body()
        return await _answer(
            handlers.post_account(operations, content_type=_content_type(), body=body)
        )

    async def close_account(account_id: str) -> TrioResponse:
        await _body()  # Nothing is carried out before the request has come in whole.
        return await _answer(handlers.delete_account(operations, account_id))

    async def queue_settlement(account_id: str) -> TrioResponse:
        body = await _body()
        keys = request.headers.getlist("Idempotency-Key")
        return await _answer(
            handlers.post_settlement(
                operations, handlers.PostSettlement(account_id, _content_type(), keys, body)
            )
        )

    async def handle_message(account_id: str) -> TrioResponse:
        body = await _body()
        return await _answer(
            handlers.post_message(operations, account_id, content_type=_content_type(), body=body)
        )

    async def describe() -> TrioResponse:
        return _response(Reply(200, _OPENAPI, "application/yaml"))

    for path, method, view in (
        ("/accounts", "POST", open_account),
        ("/accounts/<account_id>", "DELETE", close_account),
        ("/accounts/<account_id>/settlements", "POST", queue_settlement),
        ("/accounts/<account_id>/messages", "POST", handle_message),
        ("/openapi.yaml", "GET", describe),
    ):
        app.add_url_rule(path, view_func=view, methods=[method], provide_automatic_options=False)


async def _refuse_web_pages() -> TrioResponse | None:
    """Keep out what a page in a browser on this machine may send across sites unasked."""
    if "Origin" in request.headers:
        return _response(problem_reply(CROSS_SITE))
    return None


async def _answer(reply: Awaitable[Reply]) -> TrioResponse:
    return _response(await handlers.answered(reply))


async def _http_error(error: Exception) -> TrioResponse:
    # Quart keeps the error with the request: with its frames, the two would outlive the answer.
    error.__traceback__ = error.__context__ = None
    status = error.code if isinstance(error, HTTPException) and error.code else 500
    allow = error.valid_methods if isinstance(error, MethodNotAllowed) else None
    return _response(status_reply(status, allow=tuple(sorted(allow or ()))))


async def _body() -> bytes:
    return await request.get_data(cache=False, as_text=False, parse_form_data=False)


def _content_type() -> str | None:
    return request.headers.get("Content-Type")


def _response(reply: Reply) -> TrioResponse:
    response = TrioResponse(reply.body, reply.status, content_type=reply.content_type)
    if reply.content_type is None:
        # Quart fills these in, and neither belongs to an answer without a body.
        del response.headers["Content-Type"]
        del response.headers["Content-Length"]
    response.headers.extend(reply.headers)
    return response
