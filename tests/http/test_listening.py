"""Listening: every address that an operator may write, and every fault in one clear line."""

import socket
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from settled.errors import ConfigError, SettledError
from settled.http.listening import bind, tls_context


@pytest.mark.parametrize(
    ("listen", "host"),
    [
        ("127.0.0.1:0", "127.0.0.1"),
        ("localhost:0", "127.0.0.1"),
        ("[::1]:0", "::1"),
        ("0.0.0.0:0", "0.0.0.0"),
    ],
)
def test_addresses_are_bound(listen: str, host: str) -> None:
    with bind(listen) as sock:
        assert sock.getsockname()[0] == host
        assert sock.getsockname()[1] > 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        with socket.create_connection(sock.getsockname()[:2], timeout=2):
            pass


def check_line(error: pytest.ExceptionInfo[SettledError], *parts: str) -> None:
    line = str(error.value)
    assert "\n" not in line
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    "listen",
    [
        "",
        ":3000",
        "3000",
        "localhost",
        "localhost:",
        "localhost:http",
        "::1:3000",
        "[::1]",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:\u0663",
        "http://localhost:3000",
    ],
)
def test_what_is_no_address_is_a_configuration_error(listen: str) -> None:
    with pytest.raises(ConfigError) as error:
        bind(listen)
    check_line(error, repr(listen), "host:port")


def test_a_port_in_use_is_one_clear_line() -> None:
    with bind("127.0.0.1:0") as sock:
        listen = f"127.0.0.1:{sock.getsockname()[1]}"
        with pytest.raises(SettledError) as error:
            bind(listen)
    check_line(error, listen, "in use", "another port")
    assert error.value.exit_code == 1


def test_a_port_is_free_again_at_once() -> None:
    with bind("127.0.0.1:0") as sock:
        port = sock.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted = sock.accept()[0]
            accepted.close()
            client.recv(1)
    bind(f"127.0.0.1:{port}").close()


@pytest.mark.parametrize("listen", ["no-such-host.invalid:0", "a..b:0", f"{'x' * 300}:0"])
def test_an_unknown_host_is_one_clear_line(listen: str) -> None:
    with pytest.raises(SettledError) as error:
        bind(listen)
    check_line(error, listen, "no address")


def test_an_address_of_another_machine_is_one_clear_line() -> None:
    with pytest.raises(SettledError) as error:
        bind("192.0.2.1:0")
    check_line(error, "192.0.2.1:0", "no such address")


def test_a_port_that_is_not_permitted_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_sock: socket.socket, _address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(SettledError) as error:
        bind("127.0.0.1:80")
    check_line(error, "127.0.0.1:80", "not permitted", "above 1023")


@pytest.fixture
def pems(tmp_path: Path) -> tuple[str, str]:
    certificate = trustme.CA().issue_cert("localhost")
    certfile, keyfile = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(certfile)
    certificate.private_key_pem.write_to_path(keyfile)
    return str(certfile), str(keyfile)


def test_good_files_make_a_context(pems: tuple[str, str]) -> None:
    assert tls_context(*pems) is not None
    assert tls_context(None, None) is None


def test_bad_certificates_and_keys_are_one_clear_line(
    pems: tuple[str, str], tmp_path: Path
) -> None:
    certfile, keyfile = pems
    other, empty, encrypted = (tmp_path / name for name in ("other", "empty", "encrypted"))
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(other)
    empty.touch()
    encrypted.write_bytes(
        load_pem_private_key(Path(keyfile).read_bytes(), None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        )
    )
    for pair in (
        (certfile, None),
        (None, keyfile),
        (certfile, str(other)),
        (certfile, str(empty)),
        (str(empty), keyfile),
        (keyfile, certfile),
        (certfile, str(encrypted)),
        (certfile, str(tmp_path)),
        (str(tmp_path / "missing"), keyfile),
    ):
        with pytest.raises(ConfigError) as error:
            tls_context(*pair)
        check_line(error, *(name for name in pair if name and "missing" in name))
