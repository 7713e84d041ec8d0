"""The server on the wire: HTTP/2, TLS, and clients that are slow or hostile."""

import contextlib
import ssl
from pathlib import Path

import pytest
import trio
import trustme
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, ResponseReceived

from settled import limits
from settled.core.operations import Operations
from settled.http import problems
from tests.http.checks import check_problem, parse_raw
from tests.http.conftest import OCTETS, Served, app_of, fake_app, read_all, serving

POST = b"POST /accounts HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
HEADERS = [(":method", "POST"), (":scheme", "http"), (":authority", "x")]


class H2Client:
    """A client of HTTP/2 with prior knowledge that can also misbehave."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        config = H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
        self.h2 = H2Connection(config)
        self.h2.initiate_connection()

    async def flush(self) -> None:
        await self.stream.send_all(self.h2.data_to_send())

    async def request(self, stream_id: int, path: str | bytes, *, body: bytes = b"") -> None:
        headers = [*HEADERS, (":path", path)]
        self.h2.send_headers(stream_id, headers, end_stream=not body)
        if body:
            self.h2.send_data(stream_id, body, end_stream=True)
        await self.flush()

    async def events(self) -> list[Event]:
        with trio.fail_after(4):
            return list(self.h2.receive_data(await self.stream.receive_some()))

    async def status(self, stream_id: int) -> bytes | None:
        """Return the status of the answer on a stream, ``None`` when the server hangs up."""
        while True:
            with trio.fail_after(4):
                data = await self.stream.receive_some()
            if not data:
                return None
            for event in self.h2.receive_data(data):
                if isinstance(event, ResponseReceived) and event.stream_id == stream_id:
                    return dict(event.headers)[b":status"]


async def check_alive(served: Served) -> None:
    async with served.client() as client:
        assert (await client.post("/accounts")).status_code == 201


async def test_http2_with_prior_knowledge(served: Served) -> None:
    async with served.client(http1=False, http2=True) as client:
        response = await client.post("/accounts", json={"id": "bob"})
        assert (response.status_code, response.http_version) == (201, "HTTP/2")
        response = await client.post(
            "/accounts/bob/settlements/",
            json={"amount": "100", "scale": 2},
            headers={"Idempotency-Key": "k"},
        )
        assert response.content == b'{"amount":"100","scale":2}'
        response = await client.post("/accounts/bob/messages", content=b"hi", headers=OCTETS)
        assert response.content == b"bob:hi"
        assert (await client.delete("/accounts/bob")).status_code == 204
        check_problem(await client.delete("/accounts/bob"), problems.ACCOUNT_NOT_FOUND)
        check_problem(await client.get("/accounts"), problems.METHOD_NOT_ALLOWED)
        check_problem(await client.get("/"), problems.NOT_FOUND)


async def test_one_http2_connection_serves_over_a_thousand_requests(served: Served) -> None:
    async with served.client(http1=False, http2=True) as client:
        for _ in range(1100):
            assert (await client.delete("/accounts/x")).status_code == 404


@pytest.mark.parametrize("http2", [False, True])
async def test_tls_offers_http2_and_http1(
    operations: Operations, tmp_path: Path, http2: bool
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certfile, keyfile = tmp_path / "cert.pem", tmp_path / "key.pem"
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(certfile, append=True)
    certificate.private_key_pem.write_to_path(keyfile)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    app = app_of(operations)
    async with serving(app, certfile=str(certfile), keyfile=str(keyfile)) as served:
        url = f"https://127.0.0.1:{served.port}"
        async with served.client(base_url=url, verify=context, http2=http2) as client:
            response = await client.post("/accounts", json={"id": "bob"})
            assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            assert response.content == b'{"id":"bob"}'
        async with served.client(base_url=url, verify=context, http2=http2) as client:
            for key in ("a", "b"):  # the short lane's, over HTTP/1.1
                response = await client.post(
                    "/accounts/bob/settlements",
                    json={"amount": "100", "scale": 2},
                    headers={"Idempotency-Key": key},
                )
                assert response.content == b'{"amount":"100","scale":2}'
        # Plain HTTP, and silence, on the port of TLS are shown the door.
        assert parse_or_nothing(await served.exchange(POST)) != 201
        async with served.client(base_url=url, verify=context) as client:
            assert (await client.post("/accounts")).status_code == 201
            served.stop.set()
            with trio.fail_after(2):
                await served.ended.wait()


def parse_or_nothing(answer: bytes) -> int | None:
    return parse_raw(answer)[0] if answer.startswith(b"HTTP/") else None


@pytest.mark.parametrize(
    "sent",
    [
        b"\r",
        b"POST /acc",
        b"POST /accounts HTTP/1.1\r\nHost: x\r\n",
        POST + b"POST /",
        POST,
        b"PRI * HTTP/2.0\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_headers_that_do_not_come_end_the_connection(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEADER_TIMEOUT_S", 0.2)
    monkeypatch.setattr("settled.limits.SILENCE_S", 0.4)
    async with serving(fake_app()) as served, await served.connect() as stream:
        await stream.send_all(sent)
        await read_all(stream, timeout_s=2)


async def test_dripped_headers_end_the_connection_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "HEADER_TIMEOUT_S", 0.5)
    async with serving(fake_app()) as served, await served.connect() as stream:
        await stream.send_all(b"POST /accounts HTTP/1.1\r\nX: ")
        with trio.fail_after(3), contextlib.suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"x")
                await trio.sleep(0.05)


def test_the_header_timeout_is_short_enough_for_the_design() -> None:
    assert limits.HEADER_TIMEOUT_S <= 6
    assert limits.BODY_TIMEOUT_S <= 10


async def test_headers_too_large_are_refused(served: Served) -> None:
    answer = await served.exchange(
        b"POST /accounts HTTP/1.1\r\nHost: x\r\n" + b"X: %s\r\n" % (b"x" * 900) * 60
    )
    assert parse_or_nothing(answer) in {431, None}
    await check_alive(served)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
        b"\x00" * 5000,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /accounts HTTP/1.1\r\n\r\n",
        b"POST /accounts HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /accounts HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /accounts HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST /accounts HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
        b"PRI * HTTP/2.0\r\n\r\nnot the preface",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: !!\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET /accounts HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    ],
)
async def test_garbage_ends_its_own_connection_only(served: Served, garbage: bytes) -> None:
    async with await served.connect() as stream:
        await stream.send_all(garbage)
        with trio.move_on_after(0.3):
            answer = await read_all(stream)
            assert not answer.startswith(b"HTTP/1.1 500")
            assert not answer.startswith(b"HTTP/1.1 2")
    await check_alive(served)


@pytest.mark.parametrize("path", [b"/\xff", b"/accounts?\xff", b"*", b"accounts"])
async def test_an_odd_http2_path_ends_its_own_connection_only(served: Served, path: bytes) -> None:
    async with await served.connect() as stream:
        client = H2Client(stream)
        await client.request(1, path)
        assert await client.status(1) != b"500"
    await check_alive(served)


async def test_http2_data_after_the_answer_leaves_the_other_streams_alone(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("settled.limits.LINGER_S", 0.05)
    async with await served.connect() as stream:
        client = H2Client(stream)
        client.h2.send_headers(1, [*HEADERS, (":path", "/nowhere")])
        await client.flush()
        assert await client.status(1) == b"404"
        await trio.sleep(0.1)
        client.h2.send_data(1, b"x" * 100)
        await client.request(3, "/accounts")
        assert await client.status(3) == b"201"


async def test_an_http2_body_over_the_limit_leaves_the_other_streams_alone(
    served: Served,
) -> None:
    async with served.client(http1=False, http2=True) as client:
        responses: dict[int, int] = {}

        async def post(size: int) -> None:
            response = await client.post(
                "/accounts/alice/messages", content=b"m" * size, headers=OCTETS
            )
            responses[size] = response.status_code

        async with trio.open_nursery() as nursery:
            for size in (100_000, 200_000, 300_000, 1, 2, 3):
                nursery.start_soon(post, size)
        assert responses == {100_000: 413, 200_000: 413, 300_000: 413, 1: 201, 2: 201, 3: 201}


async def test_what_follows_a_request_on_its_connection_waits_its_turn(served: Served) -> None:
    answers = await served.exchange(POST * 20 + POST.replace(b"Host", b"Connection: close\r\nHost"))
    assert answers.count(b"HTTP/1.1 201") == 21
