"""One request and its answer on one connection, whatever the other end does with it."""

import pytest
import trio

from settled.exchange import Exchange, answer_to, reason
from tests.neighbours.faults import head
from tests.neighbours.test_connector_connections import OK, no_socket_is_left
from tests.neighbours.test_connector_watched import LONG, REFUSED, pair

__all__ = ["no_socket_is_left"]


def due_s() -> float:
    return trio.current_time() + 10


async def test_an_answer_that_came_before_the_server_hung_up_counts() -> None:
    stream, other = pair()
    other.send(REFUSED)
    other.close()
    exchange = Exchange(stream, 1000, None, again=False)
    assert await answer_to(exchange.send(LONG), due_s()) == (500, b"")


async def test_the_body_of_an_answer_in_chunks_is_read_whole() -> None:
    stream, other = pair()
    other.send(head("200 OK", "Transfer-Encoding: chunked") + b"2\r\nhi\r\n4\r\n you\r\n0\r\n\r\n")
    exchange = Exchange(stream, 1000, None, again=False)
    assert await answer_to(exchange.send(b"x"), due_s()) == (200, b"hi you")
    other.close()


@pytest.mark.parametrize("limit", [8, 7])
@pytest.mark.parametrize("kind", ["ordinary", "chunked"])
async def test_a_body_may_be_as_long_as_it_may_be_and_no_longer(limit: int, kind: str) -> None:
    chunked = head("201 Created", "Transfer-Encoding: chunked") + b"8\r\nRECEIVED\r\n0\r\n\r\n"
    stream, other = pair()
    other.send(OK if kind == "ordinary" else chunked)
    exchange = Exchange(stream, limit, None, again=False)
    body = b"RECEIVED" if limit == 8 else None
    assert await answer_to(exchange.send(b"x"), due_s()) == (201, body)
    other.close()


async def test_one_that_is_cancelled_says_so_and_closes_its_connection() -> None:
    stream, other = pair()
    with trio.move_on_after(0.01) as scope:
        await answer_to(Exchange(stream, 1000, None, again=False).send(b"x"), due_s())
    assert scope.cancelled_caught
    assert stream.socket.fileno() < 0
    other.close()


async def test_a_server_that_is_silent_is_a_time_out() -> None:
    stream, other = pair()
    with pytest.raises(trio.TooSlowError) as raised:
        asking = Exchange(stream, 1000, None, again=False).send(b"x")
        await answer_to(asking, trio.current_time() + 0.01)
    assert reason(raised.value) == "time-out"
    assert stream.socket.fileno() < 0
    other.close()
