"""Secret options: from the environment or a file, and out of sight from then on.

A URL is half a secret: which host it is may be known, but a key may be in all the rest of it.
"""

import re
import stat
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from settled.engine.values import Origin, Value
from settled.errors import ConfigError
from settled.text import one_line

CONCEALED: Final = "concealed"

_RANKS: Final[dict[Origin, int]] = {"file": 0, "environment": 1, "flag": 2}
_SECRET_BYTES_MAX: Final = 64 * 1024
_SHORT_WORD: Final = 3  # such as "v3": no key, and to conceal it would spoil every message


def conceal(text: str, secrets: list[Any]) -> str:
    """Return ``text`` with every secret in it replaced, also where it was written as a literal.

    Do it before the text is shortened: half a secret would not be found.
    """
    for secret in secrets:
        for form in (str(secret), repr(secret).strip("'\"")):
            if secret is not None and form:
                text = text.replace(form, CONCEALED)
    return text


def conceal_url(url: str) -> str:
    """Return ``url`` with all in it concealed but the scheme, the host and the port."""
    try:
        parts = urlsplit(url)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return CONCEALED
    host = parts.hostname
    # An @ further on: a password with a slash in it ends up in all the wrong parts.
    if not parts.scheme or not host or url.count("@") > parts.netloc.count("@"):
        return CONCEALED
    host = f"[{host}]" if ":" in host else host
    user = f"{CONCEALED}@" if "@" in parts.netloc else ""
    bare = parts.path in ("", "/") and not parts.query and not parts.fragment
    return f"{parts.scheme}://{user}{host}{port}{parts.path if bare else '/' + CONCEALED}"


def url_secrets(url: str) -> list[str]:
    """Return what may be secret in ``url``, the longest first, for ``conceal``."""
    _, _, after = url.partition("://")
    address, _, rest = after.replace("?", "/").replace("#", "/").partition("/")
    user, _, _ = address.rpartition("@")
    words = {user, rest, *re.split(r"[:/&=@]", f"{user}/{rest}")}
    return sorted((word for word in words if len(word) > _SHORT_WORD), key=len, reverse=True)


def has_credentials(url: str) -> bool:
    """Say whether there is a user, perhaps with a password, in ``url``."""
    return re.search(r"//[^/?#]*@", url) is not None


def choose_secret(
    name: str, env: str, inline: Value | None, file_name: str, file: Value | None
) -> Value | None:
    """Return the value to use of a secret option, read from its file if it names one.

    Args:
        name: the option.
        env: the environment variable that may hold it.
        inline: the secret itself, if it was given.
        file_name: the option that names a file which holds it.
        file: the value of that.

    Raises:
        ConfigError: when it came where others can read it, came twice, or cannot be read.
    """
    if inline is not None and inline.origin != "environment":
        raise ConfigError(
            f"option {name} is a secret and cannot be given by {inline.source}: "
            f"use -o {file_name}=PATH or the environment variable {env}"
        )
    if file is None:
        return inline
    if inline is not None and _RANKS[inline.origin] > _RANKS[file.origin]:
        return inline
    if inline is not None and inline.origin == file.origin:
        raise ConfigError(
            f"option {name} is given twice, by {inline.source} and by {file.source}: "
            f"remove one of them"
        )
    return _read_secret(file_name, file)


def is_exposed(path: Path) -> bool:
    """Say whether everybody on this machine can read a file, as far as its own mode goes."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def _read_secret(file_name: str, file: Value) -> Value:
    def fault(why: str) -> ConfigError:
        return ConfigError(f"option {file_name} (from {file.source}): {why}")

    if not isinstance(file.raw, str) or not file.raw or "\0" in file.raw:
        raise fault("expected a path")
    path = one_line(file.raw)
    try:
        with Path(file.raw).open("rb") as stream:
            data = stream.read(_SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise fault(f"cannot read {path}: {error.strerror}") from error
    if len(data) > _SECRET_BYTES_MAX:
        raise fault(f"{path} is larger than {_SECRET_BYTES_MAX} bytes")
    try:
        text = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise fault(f"{path} is not text in UTF-8") from None
    if not text:
        raise fault(f"{path} is empty")
    return Value(text, f"file {path} ({file_name} from {file.source})", file.origin)
