"""One node: JSON-RPC over HTTP, and what can go wrong with it.

Two kinds of failure are told apart, because they mean different things for money: the node answered
with an error (``RpcError``), or it gave no usable answer and may have done what it was asked
(``NodeUnavailable``). What an error means is read from its text: the codes are each node's own.
"""

import math
import random
import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import httpx2
import msgspec
import trio

Call = tuple[str, list[Any]]
"""A method and its parameters."""

BODY_BYTES_MAX: Final = 64 * 1024 * 1024
_BATCH_CALLS: Final = 100
_SINGLE_S: Final = 600.0  # after a batch was refused
_REQUESTS_MAX: Final = 16  # at once on one node
_REST_MIN_S: Final = 0.25
_REST_MAX_S: Final = 30.0
_RETRY_AFTER_MAX_S: Final = 600.0
_MESSAGE_CHARS_MAX: Final = 300

_TOO_MUCH: Final = (
    "query returned more than",
    "block range",
    "blocks range",
    "range is too",
    "range too",
    "too many blocks",
    "too many results",
    "too many logs",
    "more than 10000 results",
    "limited to a",
    "response size",
    "response is too",
    "result is too",
    "too large",
)
_RATE_LIMITED: Final = (
    "rate limit",
    "ratelimit",
    "too many requests",
    "request limit",
    "requests per",
    "throughput",
    "compute units",
    "capacity exceeded",
    "limit exceeded",
    "credits",
)
_KNOWN: Final = ("already known", "already imported", "already exists", "known transaction")
_NONCE_USED: Final = ("nonce too low", "nonce is too low", "oldnonce", "nonce has already been")
_PRUNED: Final = ("missing trie node", "pruned", "state is not available", "archive", "header not")


class RpcFailure(Exception):
    """A call had no result. Its text is one line, without what is secret in the node's URL."""


class NodeUnavailable(RpcFailure):
    """No usable answer: whether what was asked was done is unknown."""


class RpcError(RpcFailure):
    """The node answered with an error."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.data = data

    def _says(self, phrases: Sequence[str]) -> bool:
        text = self.message.lower()
        return any(phrase in text for phrase in phrases)

    @property
    def too_much(self) -> bool:
        """Whether more was asked for than the node gives at once: ask for less."""
        return self._says(_TOO_MUCH)

    @property
    def rate_limited(self) -> bool:
        """Whether we ask too often. Why a contract reverts is its own words, not the node's."""
        return self.code == 429 or (
            self._says(_RATE_LIMITED) and not self.too_much and not self._says(("revert",))
        )

    @property
    def already_known(self) -> bool:
        """Whether the node has the transaction that it was sent."""
        return self._says(_KNOWN)

    @property
    def nonce_used(self) -> bool:
        """Whether the nonce of the transaction is used: by this one, or by another."""
        return self._says(_NONCE_USED)

    @property
    def pruned(self) -> bool:
        """Whether the node does not have, or has no more, the state of an old block."""
        return self._says(_PRUNED)


class Node:
    """A node at one URL.

    Args:
        url: of its JSON-RPC.
        client: what it is reached with.
        timeout_s: how long it has to answer.

    Attributes:
        shown_url: the URL without its path, query and user, which may be secrets.
        checked: whether it is known to be on our chain.
    """

    def __init__(self, url: str, client: httpx2.AsyncClient, *, timeout_s: float) -> None:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        self.shown_url = f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")
        self.checked = False
        self._url = url
        self._secrets = _secrets(parts)
        self._client = client
        self._timeout_s = timeout_s
        self._places = trio.CapacityLimiter(_REQUESTS_MAX)
        self._single_until = -math.inf
        self._failures = 0
        self._rests_until = self._works_from = -math.inf

    @property
    def rest_s(self) -> float:
        """For how long it is to be left alone, after it has failed."""
        return max(0.0, self._rests_until - trio.current_time())

    async def call(self, method: str, *parameters: Any) -> Any:
        """Return the result of one call.

        Raises:
            RpcError: when the node answers with an error.
            NodeUnavailable: when it gives no usable answer.
        """
        return self._result(await self._post(_request(0, method, list(parameters))))

    async def batch(self, calls: Sequence[Call]) -> list[Any]:
        """Return what each call gave: its result, or the ``RpcError``.

        Raises:
            NodeUnavailable: when one of them had no usable answer.
        """
        found: list[Any] = []
        for start in range(0, len(calls), _BATCH_CALLS):
            found += await self._chunk(calls[start : start + _BATCH_CALLS])
        return found

    async def _chunk(self, calls: Sequence[Call]) -> list[Any]:
        if trio.current_time() >= self._single_until and len(calls) > 1:
            answers = await self._post(
                [_request(n, method, parameters) for n, (method, parameters) in enumerate(calls)]
            )
            if isinstance(answers, list):
                return self._sorted(answers, len(calls))
            try:
                self._result(answers)
            except RpcError as error:
                if error.too_much:
                    return [error] * len(calls)
            # Some nodes take one call at a time; others were in trouble for a while.
            self._single_until = trio.current_time() + _SINGLE_S
        results: list[Any] = []
        for method, parameters in calls:
            try:
                results.append(await self.call(method, *parameters))
            except RpcError as error:
                results.append(error)
        return results

    def _sorted(self, answers: list[Any], count: int) -> list[Any]:
        told = [answer for answer in answers if isinstance(answer, dict)]
        by_id = {answer["id"]: answer for answer in told if isinstance(answer.get("id"), int)}
        results: list[Any] = []
        for n in range(count):
            try:
                results.append(self._result(by_id.get(n)))
            except RpcError as error:
                results.append(error)
        return results

    def _result(self, answer: Any) -> Any:
        if not isinstance(answer, dict) or ("result" not in answer and not answer.get("error")):
            raise self.failed("answered with what is no JSON-RPC")
        error = answer.get("error")
        if not error:
            return answer["result"]
        parts = error if isinstance(error, dict) else {"message": error}
        code = parts.get("code")
        found = RpcError(
            code if isinstance(code, int) else -1,
            self._conceal(parts.get("message")),
            parts.get("data"),
        )
        if found.rate_limited:
            raise self.failed(f"limits our requests: {found}")
        raise found

    async def _post(self, body: Any) -> Any:
        content = msgspec.json.encode(body)
        async with self._places:
            await trio.lowlevel.checkpoint_if_cancelled()  # then the client may be closed by now
            if self.rest_s:
                raise NodeUnavailable(f"{self.shown_url} failed just now")
            try:
                with trio.fail_after(self._timeout_s):
                    answer = await self._exchange(content)
            except trio.TooSlowError:
                raise self.failed(f"did not answer within {self._timeout_s:g} s") from None
            except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
                # Without its cause: the text of that could spell the URL out.
                reason = f"{type(error).__name__} {self._conceal(error)}".strip()
                raise self.failed(f"cannot be used: {reason}") from None
        if trio.current_time() >= self._works_from:
            self._failures = 0
        return answer

    async def _exchange(self, content: bytes) -> Any:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip"}
        async with self._client.stream(
            "POST", self._url, content=content, headers=headers
        ) as response:
            status = response.status_code
            if status == 429 or status >= 500:
                rest_s = _seconds(response.headers.get("Retry-After"))
                raise self.failed(f"answered with status {status}", rest_s=rest_s)
            body = bytearray()
            with trio.CancelScope() as enough:  # to break off would leave generators half-way
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > BODY_BYTES_MAX:
                        enough.cancel()
        if len(body) > BODY_BYTES_MAX:
            return _too_large(f"answer is too large: over {BODY_BYTES_MAX} bytes")
        if status == 413:
            return _too_large("request is too large")
        try:
            return msgspec.json.decode(bytes(body))
        except (ValueError, RecursionError):
            raise self.failed(f"answered with status {status} and no JSON") from None

    def failed(self, what: str, *, rest_s: float | None = None) -> NodeUnavailable:
        """Leave the node alone for a while, longer each time, and return what to raise."""
        self.checked = False  # it may come back as another
        if not self.rest_s:  # what was under way when it failed counts once
            self._failures += 1
        backoff_s = min(_REST_MAX_S, _REST_MIN_S * 2.0 ** min(self._failures - 1, 20))
        if rest_s is None:
            rest_s = backoff_s * random.uniform(0.5, 1)
        rests_until = trio.current_time() + min(rest_s, _RETRY_AFTER_MAX_S)
        self._rests_until = max(self._rests_until, rests_until)
        # One that limits our requests answers some: it works when it does so as long as it rested.
        self._works_from = self._rests_until + backoff_s
        return NodeUnavailable(f"node {self.shown_url} {what}")

    def _conceal(self, text: object) -> str:
        line = " ".join(str(text).split())
        for secret in self._secrets:
            line = line.replace(secret, "...")
        line = line.encode("ascii", "backslashreplace").decode()
        return line[:_MESSAGE_CHARS_MAX]


def _secrets(parts: SplitResult) -> list[str]:
    """Return what may be secret in a URL, the longest first: providers put keys into its path."""
    words = {parts.path, parts.query, *re.split(r"[/&=]", f"{parts.path}&{parts.query}")}
    words |= {parts.username or "", parts.password or ""}
    return sorted((word for word in words if len(word) > 3), key=len, reverse=True)


def _request(number: int, method: str, parameters: list[Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}


def _too_large(message: str) -> dict[str, Any]:
    return {"error": {"code": 413, "message": message}}


def _seconds(text: str | None) -> float | None:
    """Return what ``Retry-After`` says, unless it is a date or nothing."""
    if text is None or not text.strip().isascii() or not text.strip().isdigit():
        return None
    return float(text.strip()[:9])
