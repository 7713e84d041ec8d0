"""What the values of settings must look like, beyond their types: each fault in a few words."""

import re
from decimal import Decimal
from typing import Final
from urllib.parse import urlsplit

from settled.engine.secrets import CONCEALED
from settled.engine.values import Value
from settled.text import one_line

_LISTEN: Final = re.compile(r"(\[[^\[\]\s]+\]|[^:\[\]\s]+):([0-9]{1,5})", re.ASCII)
_BYTES: Final = re.compile(r"(?ai)(\d{1,15}(?:\.\d{1,9}(?=[KMG]))?)([KMG]?)")
_UNSAFE_IN_URL: Final = re.compile(r"[^\x21-\x7e]|[\\?#]")


def listen_fault(listen: str) -> str | None:
    """Say what is wrong with an address to listen on; ``None``: nothing."""
    match = _LISTEN.fullmatch(listen)
    if match is None or int(match[2]) > 65535:
        return f"expected HOST:PORT, like 127.0.0.1:3000 or [::1]:3000; got {one_line(listen, 60)}"
    return None


def url_fault(url: str, value: Value | None) -> str | None:
    """Say what is wrong with the connector's URL, without repeating it: it may hold a password."""
    expected = "expected an http or https URL without query, like http://localhost:7771"
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return expected
    if not valid or _UNSAFE_IN_URL.search(url):
        return expected
    if "@" in parts.netloc and value is not None and value.origin == "flag":
        return (
            "credentials do not belong on the command line, where others can see them: "
            "set SETTLED_CONNECTOR_URL, or connector_url in the settings file"
        )
    return None


def parse_bytes(text: str) -> int:
    """Return a size such as ``64M`` or ``1.5g``, in powers of 1024, as a number of bytes.

    Raises:
        ValueError: when it is no such size.
    """
    match = _BYTES.fullmatch(text)
    if match is None:
        raise ValueError(f"expected bytes, or a number with K, M or G, like 64M; got {text[:60]}")
    return int(Decimal(match[1]) * 1024 ** " KMG".index(match[2].upper() or " "))


def bytes_fault(text: str) -> str | None:
    """Say what is wrong with a size; ``None``: nothing."""
    try:
        parse_bytes(text)
    except ValueError as error:
        return one_line(error)
    return None


def timeout_fault(timeout_s: float | None) -> str | None:
    """Say what is wrong with a time-out; ``None``: nothing."""
    return None if timeout_s is None or timeout_s > 0 else "expected more than 0 seconds"


def conceal_credentials(url: str) -> str:
    """Return ``url`` with the user and password in it, if any, replaced."""
    return re.sub(r"//[^/]*@", f"//{CONCEALED}@", url)
