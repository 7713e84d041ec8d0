"""What goes wrong with one newcomer keeps no other from being accepted."""

import errno
import socket

import pytest
import trio

from tests.http.conftest import fake_app, serving


async def test_a_newcomer_who_has_gone_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = [errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN]
    accept = socket.socket.accept

    def failing(sock: socket.socket) -> tuple[socket.socket, object]:
        if faults:
            raise OSError(faults.pop(), "it has gone")
        return accept(sock)

    monkeypatch.setattr(socket.socket, "accept", failing)
    with trio.fail_after(10):
        async with serving(fake_app()) as served:
            for _ in range(20):
                async with await served.connect() as stream:
                    await stream.send_all(b"GET /openapi.yaml HTTP/1.1\r\nHost: x\r\n\r\n")
                    assert (await stream.receive_some()).startswith(b"HTTP/1.1 ")
    assert not faults


async def test_a_listening_socket_that_fails_ends_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(_sock: socket.socket) -> None:
        raise OSError(errno.EBADF, "no socket")

    monkeypatch.setattr(socket.socket, "accept", failing)
    with trio.fail_after(10), pytest.raises(ExceptionGroup) as caught:
        async with serving(fake_app()) as served, await served.connect():
            await trio.sleep_forever()
    assert caught.group_contains(OSError, match="no socket")
