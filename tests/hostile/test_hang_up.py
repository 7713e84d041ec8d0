"""A client that hangs up after every byte that it sends, and at every step that we take for it.

Each time its request is untouched, or recorded and safe to send again; and nothing is left behind:
no task, no descriptor.
"""

import os
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path

import pytest
import trio

from settled.core.core import Core
from settled.core.operations import Operations
from settled.store.protocol import Store
from settled.store.sqlite import open_sqlite
from tests.harness import ScriptedConnector
from tests.hostile.wire import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    fields,
    frame,
    settlement,
)
from tests.http.conftest import EchoEngine, Served, app_of, serving

STEPS_MAX = 400

# The end of an answer: of its body, in HTTP/2 as in HTTP/1.1.
ANSWER = re.compile(rb'"scale":0}')


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[tuple[Served, Store]]:
    """Serve over a store on disk; payments do not begin, so that what was asked stays queued."""
    async with (
        open_sqlite(directory / "s.db", exclusive=True, create=True) as store,
        trio.open_nursery() as nursery,
    ):
        engine = EchoEngine()
        operations = Operations(store, Core(store, engine, ScriptedConnector(), nursery), engine)
        await operations.open_account("alice")
        async with serving(app_of(operations)) as served:
            await ask(served, settlement("first"))
            await store.account("alice")
            await trio.testing.wait_all_tasks_blocked(0.05)
            yield served, store


async def ask(served: Served, request: bytes) -> None:
    async with await served.connect() as stream:
        await stream.send_all(request)
        with trio.fail_after(5):
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 201")


def connect(served: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port))


def left_behind() -> tuple[int, int]:
    """Return how many tasks there are, and how many descriptors."""
    return trio.lowlevel.current_statistics().tasks_living, len(os.listdir("/proc/self/fd"))


async def nothing_left_behind(before: tuple[int, int]) -> None:
    with trio.move_on_after(5):
        while left_behind() != before:  # noqa: ASYNC110
            await trio.sleep(0.002)
    assert left_behind() == before


class AtStep(trio.abc.Instrument):
    """Does something before the nth step of any task."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self._left = step
        self._act = act
        self.done = trio.Event()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._act()
            self.done.set()


def close(sock: socket.socket) -> None:
    sock.close()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def half_close(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


def reset_stream(sock: socket.socket) -> None:
    sock.send(frame(RST_STREAM, 0, 1, CANCEL))


def http2(key: str) -> bytes:
    body = b'{"amount":"1","scale":0}'
    block = fields(b"/accounts/alice/settlements", (b"idempotency-key", key.encode()))
    return (
        PREFACE
        + frame(SETTINGS, 0, 0)
        + frame(HEADERS, END_HEADERS, 1, block)
        + frame(DATA, END_STREAM, 1, body)
    )


async def cut(
    served: Served, request: bytes, step: int, hang_up: Callable[[socket.socket], None]
) -> bool:
    """Send a request, and hang up at a step; return whether that was before it was answered."""
    sock = connect(served)
    at_step = AtStep(step, lambda: hang_up(sock))
    answered = False
    try:
        sock.sendall(request)
        trio.lowlevel.add_instrument(at_step)
        with trio.move_on_after(5):
            while not at_step.done.is_set() and not answered:
                await trio.lowlevel.checkpoint()
                with suppress(OSError):
                    sock.settimeout(0)
                    answered = ANSWER.search(sock.recv(4096)) is not None
    finally:
        trio.lowlevel.remove_instrument(at_step)
        if sock.fileno() >= 0:
            sock.close()
    return not answered


@pytest.mark.parametrize("hang_up", [close, reset, half_close, reset_stream])
async def test_hanging_up_at_any_step_is_safe(
    tmp_path: Path, hang_up: Callable[[socket.socket], None]
) -> None:
    async with running(tmp_path) as (served, store):
        before, keys = left_behind(), 1
        recorded_early = 0
        for step in range(1, STEPS_MAX):
            key = f"step-{step}"
            request = http2(key) if hang_up is reset_stream else settlement(key)
            unanswered = await cut(served, request, step, hang_up)
            await nothing_left_behind(before)
            asked = (await store.account("alice")).queued
            assert asked - keys in (0, 1)
            recorded_early += int(asked) - keys
            await ask(served, settlement(key))
            keys += 1
            assert (await store.account("alice")).queued == keys, "recorded once, whatever was cut"
            await nothing_left_behind(before)
            if not unanswered:
                break
        assert step < STEPS_MAX - 1
        assert step > 10, "hung up at few steps only"
        assert recorded_early, "no request was recorded without an answer: the cuts came too early"


async def test_hanging_up_after_any_byte_leaves_nothing_behind(tmp_path: Path) -> None:
    async with running(tmp_path) as (served, store):
        before = left_behind()
        request = settlement("bytes")
        for sent in range(len(request)):
            sock = connect(served)
            sock.sendall(request[:sent])
            await trio.lowlevel.checkpoint()
            (close, reset)[sent % 2](sock)
        await nothing_left_behind(before)
        assert (await store.account("alice")).queued == Decimal(1)
        await ask(served, request)
        assert (await store.account("alice")).queued == Decimal(2)
