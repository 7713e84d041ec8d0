"""What a connector asks of the daemon, and what it is told."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from settled import limits
from settled.amounts import Quantity
from settled.errors import AccountNotFound, HandlerFailed, InvalidId, MessageRefused, StoreBroken
from settled.store.records import Request
from tests.harness import ScriptedEngine, memory_store, running


async def test_a_request_is_echoed_as_it_was_first_sent(autojump_clock: MockClock) -> None:
    store = memory_store()
    async with running(ScriptedEngine(), store) as daemon:
        assert await daemon.operations.open_account("alice") == "alice"
        minted = await daemon.operations.open_account(None)
        assert minted == (await store.account(minted)).id
        with pytest.raises(InvalidId):
            await daemon.operations.open_account("a/b")
        for quantity in (Quantity("0100", 2), Quantity("1", 0)):
            request = Request("alice", quantity, "k")
            assert await daemon.operations.queue_settlement(request) == Quantity("0100", 2)
        with pytest.raises(AccountNotFound):
            await daemon.operations.close_account("bob")
        await daemon.operations.close_account("alice")
        with pytest.raises(AccountNotFound):
            await daemon.operations.handle_message("alice", b"1")


async def message(body: bytes, reply: object, *, raw: bool = False) -> bytes:
    """Have a message handled by an engine that gives, or raises, ``reply``."""

    async def handle(account_id: str, message: Any) -> Any:
        if isinstance(reply, BaseException):
            raise reply
        return message if reply == "echo" else reply

    engine = ScriptedEngine(handle_message=handle, raw_messages=raw)
    async with running(engine, memory_store()) as daemon:
        await daemon.operations.open_account("alice")
        try:
            return await daemon.operations.handle_message("alice", body)
        except (HandlerFailed, MessageRefused, StoreBroken) as error:
            caught = error
    raise caught


async def test_messages_are_json_or_bytes(autojump_clock: MockClock) -> None:
    assert await message(b'{"a": [1]}', "echo") == b'{"a":[1]}'
    assert await message(b"1", None) == b"null"
    assert await message(b"\xff", "echo", raw=True) == b"\xff"
    assert await message(b"1", None, raw=True) == b""
    assert await message(b"1", bytearray(b"x"), raw=True) == b"x"
    assert await message(b"1", memoryview(b"x"), raw=True) == b"x"
    for body in (b"", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(MessageRefused):
            await message(body, "echo")


@pytest.mark.parametrize(
    ("reply", "raw"), [(RuntimeError("boom"), False), (object(), False), ("text", True), (1, True)]
)
async def test_a_handler_that_fails_or_replies_no_message(
    reply: object, raw: bool, autojump_clock: MockClock
) -> None:
    with pytest.raises(HandlerFailed, match="alice"):
        await message(b"1", reply, raw=raw)


async def test_what_the_engine_refuses_is_one_line_and_what_it_stumbles_over_has_its_traceback(
    autojump_clock: MockClock, log: list[Any]
) -> None:
    no = MessageRefused("the peer settles in\nanother asset")
    for refusal in (no, ExceptionGroup("", [no])):
        with pytest.raises(MessageRefused, match="account alice: .* settles in another asset"):
            await message(b"1", refusal)
    for failure in (ValueError("boom"), ExceptionGroup("", [no, ValueError("boom")])):
        with pytest.raises(HandlerFailed):
            await message(b"1", failure)
    told = [(entry["event"], "exc_info" in entry) for entry in log if "account" in entry]
    assert told == [("message_refused", False)] * 2 + [("handler_failed", True)] * 2
    assert log[0]["reason"] == "the peer settles in another asset"
    assert log[0]["log_level"] == "warning"


async def test_a_peer_whose_messages_are_refused_does_not_fill_the_log(
    autojump_clock: MockClock, log: list[Any]
) -> None:
    async def refuse(account_id: str, message: Any) -> Any:
        raise MessageRefused(f"what is {message}?")

    async with running(ScriptedEngine(handle_message=refuse), memory_store()) as daemon:
        for account_id in ("alice", "bob"):
            await daemon.operations.open_account(account_id)
            for word in ("a", "b", "c", "c"):
                with pytest.raises(MessageRefused, match=f"what is {word}"):
                    await daemon.operations.handle_message(account_id, f'"{word}"'.encode())
    told = [entry["account"] for entry in log if entry["event"] == "message_refused"]
    assert told == ["alice", "bob"]


async def test_no_answer_is_given_when_the_store_broke_in_the_handler(
    autojump_clock: MockClock,
) -> None:
    """Whether what the handler wrote is recorded cannot be told: the daemon is stopping."""
    with pytest.raises(StoreBroken):
        await message(b"1", StoreBroken("the disk is gone"))


async def test_a_handler_is_cut_off_before_the_connector_gives_up(
    autojump_clock: MockClock,
) -> None:
    async def hang(account_id: str, message: Any) -> Any:
        await trio.sleep_forever()

    async with running(ScriptedEngine(handle_message=hang), memory_store()) as daemon:
        await daemon.operations.open_account("alice")
        started_s = trio.current_time()
        with pytest.raises(HandlerFailed):
            await daemon.operations.handle_message("alice", b"1")
        assert trio.current_time() - started_s == limits.MESSAGE_HANDLER_TIMEOUT_S
    async with running(ScriptedEngine(), memory_store()) as daemon:
        await daemon.operations.open_account("alice")
        with pytest.raises(MessageRefused, match="handles no messages"):
            await daemon.operations.handle_message("alice", b"1")
