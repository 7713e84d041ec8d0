"""Where the server listens: addresses, sockets and certificates, each fault in one clear line."""

import re
import socket
import ssl
from errno import EACCES, EADDRINUSE, EADDRNOTAVAIL, EPERM
from pathlib import Path
from typing import Final

from settled import limits
from settled.errors import ConfigError, SettledError

_BACKLOG: Final = 1024

_LISTEN: Final = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+)):([0-9]{1,5})", re.ASCII)

_ADVICE: Final = {
    EADDRINUSE: "the port is in use; stop the program that holds it, or listen on another port",
    EACCES: "not permitted; listen on a port above 1023",
    EPERM: "not permitted; listen on a port above 1023",
    EADDRNOTAVAIL: "this machine has no such address; listen on 127.0.0.1 or one of its own",
}


def bind(listen: str) -> socket.socket:
    """Return a socket that listens on ``listen``.

    Args:
        listen: ``host:port``, with an IPv6 address in brackets. Port 0 takes any free port. Of a
            name's addresses the first IPv4 address is taken, if there is one.

    Raises:
        ConfigError: ``listen`` is not such an address.
        SettledError: the port is in use, not permitted, or the host has no address here.

    Example::

        >>> bind("127.0.0.1:0").getsockname()[0]
        '127.0.0.1'
    """
    host, port = _parse(listen)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise SettledError(
            f"cannot listen on {listen}: the host {host!r} has no address; "
            f"listen on 127.0.0.1:{port}, or correct the name"
        ) from None
    family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it: a client that stops reading cannot hold its answer for ever.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limits.BODY_TIMEOUT_S * 1000)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        reason = _ADVICE.get(error.errno or 0, error.strerror)
        raise SettledError(f"cannot listen on {listen}: {reason}") from None
    return sock


def tls_context(certfile: str | None, keyfile: str | None) -> ssl.SSLContext | None:
    """Return what serves TLS with HTTP/2 and HTTP/1.1, or ``None`` when no files are given.

    Args:
        certfile: the certificate chain, in PEM.
        keyfile: its private key, in PEM and not encrypted.

    Raises:
        ConfigError: a file is missing or no good, or they do not belong together.
    """
    if certfile is None and keyfile is None:
        return None
    if certfile is None or keyfile is None:
        raise ConfigError("TLS takes both --certfile and --keyfile: give both, or neither")
    for path in (certfile, keyfile):
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(
                f"cannot read {path}: {error.strerror}; TLS takes a certificate and a key in PEM"
            ) from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # RFC 9113, 9.2.2: HTTP/2 takes none of the other ciphers of TLS 1.2.
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        # With no password at all, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certfile, keyfile, password="")
    except (ssl.SSLError, ValueError):
        raise ConfigError(
            f"cannot use the certificate {certfile} with the key {keyfile}: both must be PEM, "
            f"the key must not be encrypted, and they must belong together"
        ) from None
    return context


def _parse(listen: str) -> tuple[str, int]:
    match = _LISTEN.fullmatch(listen)
    if match is None or int(match[3]) > 65535:
        raise ConfigError(
            f"{listen!r} is not an address to listen on: "
            f"write host:port, like 127.0.0.1:3000 or [::1]:3000"
        )
    return match[1] or match[2], int(match[3])
