"""What an engine is: the protocol, and the check of it.

Example::

    async def connect(services: Services) -> MyEngine:
        return MyEngine(services)

    class MyEngine:
        async def settle(self, account_id: str, amount: Decimal, settlement_id: str) -> Decimal:
            ...
"""

import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from settled import limits
from settled.engine.misspelling import probably_meant
from settled.errors import ConfigError

if TYPE_CHECKING:
    from settled.engine.services import Services

log = structlog.get_logger()

_SETTLE: Final = "async def settle(self, account_id, amount, settlement_id)"
_OPTIONAL: Final = {
    "setup_account": ("account_id",),
    "close_account": ("account_id",),
    "handle_message": ("account_id", "message"),
    "find_settlement": ("account_id", "settlement_id"),
    "disconnect": (),
}
_ATTRIBUTES: Final = ("asset_scale", "raw_messages")


class Engine(Protocol):
    """A settlement engine. Only ``settle`` must exist; the rest is found by name.

    Optional methods:

    - ``async setup_account(account_id)``: run when an account is new, until it succeeds once.
    - ``async close_account(account_id)``: run when an account was closed, until it succeeds once.
    - ``async handle_message(account_id, message)``: answer a message of the peer's engine; what it
      returns is the reply. It has 4 s, and may see a message twice. It raises ``MessageRefused``
      for one that it does not take.
    - ``async find_settlement(account_id, settlement_id)``: the amount that a settlement of unknown
      outcome settled; 0 when it certainly was not and never will be; ``None`` while that cannot
      be told. It raises ``SettlementPending`` in place of ``None`` while all goes as it should.
    - ``async disconnect()``: run once at the end, if ``connect`` is an async function; it has 5 s.

    Optional attributes:

    - ``asset_scale``: decimals of the ledger's smallest unit, 0 to 255. Amounts are rounded down
      to it before ``settle`` is called; the rest stays queued. ``None``: amounts of any precision.
    - ``raw_messages``: if true, messages and replies are bytes instead of JSON values.
    """

    async def settle(self, account_id: str, amount: Decimal, settlement_id: str) -> Decimal:
        """Pay ``amount`` (in the asset's standard unit) and return what was paid.

        ``settlement_id`` is the same whenever this settlement comes up again: hand it to the ledger
        as its reference. A ``settle`` that has no use for it may leave it out.

        Raises:
            NotSettled: when certainly nothing was paid, and nothing of this attempt will be.
        """
        ...


Connect = Callable[["Services"], Awaitable[Any] | AbstractAsyncContextManager[Any]]
"""An async function that returns the engine, or an async context manager that yields it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCalls:
    """An engine that was checked: its methods, ``None`` where it has none, all called one way."""

    settle: Callable[[str, Decimal, str], Awaitable[object]]
    setup_account: Callable[[str], Awaitable[None]] | None = None
    close_account: Callable[[str], Awaitable[None]] | None = None
    handle_message: Callable[[str, Any], Awaitable[Any]] | None = None
    find_settlement: Callable[[str, str], Awaitable[object]] | None = None
    disconnect: Callable[[], Awaitable[None]] | None = None
    asset_scale: int | None = None
    raw_messages: bool = False


def check_engine(engine: object, *, source: str) -> EngineCalls:
    """Return the calls of ``engine``.

    Args:
        engine: what ``connect`` made.
        source: where that is, for messages, such as ``my_engine:connect``.

    Raises:
        ConfigError: in one line, when a method or attribute is missing or not as it must be.
    """
    if engine is None:
        raise ConfigError(f"engine {source}: connect gave nothing; it must return the engine")
    where = f"engine {source}: {type(engine).__name__}"
    meant = probably_meant(engine, methods=("settle", *_OPTIONAL), attributes=_ATTRIBUTES)
    if getattr(engine, "settle", None) is None:
        hint = "".join(f" (is it {written}?)" for written, name in meant if name == "settle")
        raise ConfigError(f"{where} has no settle{hint}; expected `{_SETTLE}`")
    methods = {name: _optional(engine, name, where) for name in _OPTIONAL}
    for written, name in meant:
        log.warning("engine_has_unknown_name", engine=source, name=written, perhaps_meant=name)
    return EngineCalls(
        settle=_settle(engine, where),
        asset_scale=_asset_scale(engine, where),
        raw_messages=_raw_messages(engine, where),
        **methods,
    )


def _optional(engine: object, name: str, where: str) -> Any:
    method = getattr(engine, name, None)
    if method is None:
        return None
    arguments = _OPTIONAL[name]
    expected = f"async def {name}({', '.join(('self', *arguments))})"
    _check_async(method, f"{where}.{name}", expected)
    signature = _signature(method)
    if signature is not None and not _accepts(signature, *arguments):
        raise ConfigError(f"{where}.{name} takes {signature}; expected `{expected}`")
    return method


def _settle(engine: object, where: str) -> Callable[[str, Decimal, str], Awaitable[object]]:
    settle: Any = getattr(engine, "settle", None)
    _check_async(settle, f"{where}.settle", _SETTLE)
    signature = _signature(settle)
    if signature is None:
        return settle  # type: ignore[no-any-return]
    if _takes_keyword(signature, "settlement_id"):
        if _accepts(signature, "", "", settlement_id=""):
            return lambda account_id, amount, id_: settle(account_id, amount, settlement_id=id_)
    elif _takes_third(signature):
        if _accepts(signature, "", "", ""):
            return settle  # type: ignore[no-any-return]
    elif _accepts(signature, "", ""):
        return lambda account_id, amount, _: settle(account_id, amount)
    raise ConfigError(f"{where}.settle takes {signature}; expected `{_SETTLE}`")


def _takes_keyword(signature: inspect.Signature, name: str) -> bool:
    parameter = signature.parameters.get(name)
    return parameter is not None and parameter.kind in (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )


def _takes_third(signature: inspect.Signature) -> bool:
    """Say whether a third argument would be the settlement id.

    An optional parameter of another name is the author's own, and keeps its default.
    """
    positional = []
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            return True
        if parameter.kind in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        ):
            positional.append(parameter)
    if len(positional) < 3:
        return False
    third = positional[2]
    return third.default is inspect.Parameter.empty or third.name == "settlement_id"


def _check_async(method: Any, where: str, expected: str) -> None:
    if not callable(method) or not any(
        inspect.iscoroutinefunction(function)
        for function in (method, inspect.unwrap(method), type(method).__call__)
    ):
        raise ConfigError(f"{where} is not an async function; expected `{expected}`")


def _signature(method: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(method)
    except ValueError:  # compiled code may not tell
        return None


def _accepts(signature: inspect.Signature, *args: str, **kwargs: str) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _asset_scale(engine: object, where: str) -> int | None:
    scale = getattr(engine, "asset_scale", None)
    if scale is not None and (type(scale) is not int or not 0 <= scale <= limits.SCALE_MAX):
        raise ConfigError(
            f"{where}.asset_scale is {scale!r:.50}; expected a whole number from 0 to "
            f"{limits.SCALE_MAX}, or None"
        )
    return scale


def _raw_messages(engine: object, where: str) -> bool:
    raw = getattr(engine, "raw_messages", False)
    if not isinstance(raw, bool):
        raise ConfigError(f"{where}.raw_messages is {raw!r:.50}; expected True or False")
    return raw
