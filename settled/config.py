"""The daemon's settings: each declared once, and where the value of each came from.

A flag goes before an environment variable, that before the settings file, that before the default.
The file is TOML: the settings by name, and the engine's options in the table ``[options]``::

    engine = "loopback"
    listen = "127.0.0.1:3000"

    [options]
    precision = 6
"""

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from settled import limits
from settled.engine.loading import LoadedTarget
from settled.engine.options import ENV_PREFIX as OPTION_PREFIX
from settled.engine.options import OptionInfo, Shown, build, describe, option, shown
from settled.engine.secrets import CONCEALED
from settled.engine.values import Value
from settled.errors import ConfigError
from settled.setting_values import (
    bytes_fault,
    conceal_credentials,
    listen_fault,
    parse_bytes,
    timeout_fault,
    url_fault,
)
from settled.text import one_line

ENV_PREFIX: Final = "SETTLED_"
CONFIG_ENV: Final = "SETTLED_CONFIG"
DEFAULT_FILE: Final = Path("settled.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the daemon runs with. ``grace`` and ``settle_timeout`` are in seconds."""

    db: Path = option(default=Path("./settled.db"), help="the database file")
    listen: str = option(default="127.0.0.1:3000", help="where connectors reach us, HOST:PORT")
    connector_url: str = option(default="http://localhost:7771", help="the connector's URL")
    engine: str | None = option(
        default=None, help="the engine, as MODULE:NAME or the name of an installed one"
    )
    grace: float = option(
        default=float(limits.SHUTDOWN_GRACE_S),
        minimum=0,
        help="seconds to finish what is under way when told to stop",
    )
    settle_timeout: float | None = option(
        default=None,
        help="seconds that the engine's settle may take; after them the outcome is unknown",
    )
    disk_reserve: str = option(
        default="64M",
        help="free space, in bytes or with K, M or G, below which new work is refused; 0: never",
    )
    short_lane: bool = option(
        default=True,
        help="answer ordinary settlements and messages without Hypercorn and Quart, much faster",
    )
    certfile: Path | None = option(default=None, help="TLS certificate chain, PEM")
    keyfile: Path | None = option(default=None, help="private key of the certificate, PEM")
    log_format: str = option(
        default="auto",
        choices=("auto", "console", "json"),
        help="how to log; auto: console on a terminal, else json",
    )

    def __post_init__(self) -> None:
        if (self.certfile is None) != (self.keyfile is None):
            raise ValueError("certfile and keyfile go together: give both or neither")

    @property
    def disk_reserve_bytes(self) -> int:
        """``disk_reserve`` as a number."""
        return parse_bytes(self.disk_reserve)


SETTINGS: Final[list[OptionInfo]] = describe(Settings, env_prefix=ENV_PREFIX)


@dataclass(frozen=True, slots=True)
class Config:
    """The settings, where each came from (``sources``), and the engine's options as given."""

    settings: Settings
    sources: Mapping[str, str]
    options: Mapping[str, Value]

    def shown(self, engine: LoadedTarget | None) -> list[Shown]:
        """Return every setting and option, fit to be shown, and where each came from.

        Raises:
            ConfigError: when the engine cannot take the options.
        """
        rows = []
        for info in SETTINGS:
            value = getattr(self.settings, info.name)
            if info.name == "connector_url":
                value = conceal_credentials(value)
            rows.append(Shown(info.name, value, self.sources.get(info.name, "default")))
        if engine is None:
            # Without the engine there is no telling which of them are secret.
            options = [Shown(name, CONCEALED, v.source) for name, v in self.options.items()]
        elif engine.options_class is not None:
            options = shown(engine.options_class, self.options)
        else:
            engine.check_no_options(self.options)
            options = []
        rows += [dataclasses.replace(row, name=f"options.{row.name}") for row in options]
        return rows


def resolve(
    flags: Mapping[str, str | bool | None],
    option_flags: Sequence[str],
    environ: Mapping[str, str],
    config_flag: str | None = None,
) -> Config:
    """Return the settings that result from all places where they may be given.

    Args:
        flags: the settings given on the command line, by name (``None``: not given).
        option_flags: what was given by ``-o``, each as ``name=value``.
        environ: the environment; a variable that is empty counts as not set.
        config_flag: the settings file; without it ``SETTLED_CONFIG``, or else ``./settled.toml``
            if there is one.

    Raises:
        ConfigError: in one line, for whatever is wrong with any of them.
    """
    values, options = _from_file(environ, config_flag)
    for info in SETTINGS:
        if environ.get(info.env):
            values[info.name] = _variable(info.env, environ)
        flag = flags.get(info.name)
        if flag is not None:
            values[info.name] = Value(flag, "--" + info.name.replace("_", "-"), "flag")
    for variable in sorted(environ):
        if variable.startswith(OPTION_PREFIX) and environ[variable]:
            name = variable.removeprefix(OPTION_PREFIX).lower()
            options[name] = _variable(variable, environ)
    for text in option_flags:
        name, equals, raw = text.partition("=")
        if not equals or not name:
            # It is not repeated here: it may well hold a secret.
            raise ConfigError("-o takes NAME=VALUE, like -o precision=6")
        options[name] = Value(raw, "-o", "flag")
    return Config(_build(values), {name: v.source for name, v in values.items()}, options)


def resolve_db(
    flag: str | None, environ: Mapping[str, str], config_flag: str | None = None
) -> Path:
    """Return the database file that the settings name, for commands that need no other setting.

    Raises:
        ConfigError: when the settings file or this setting is wrong.
    """
    return _resolve_one("db", flag, environ, config_flag).db


def resolve_disk_reserve(environ: Mapping[str, str], config_flag: str | None = None) -> int:
    """Return how many bytes a daemon with these settings keeps free.

    Raises:
        ConfigError: when the settings file or this setting is wrong.
    """
    return _resolve_one("disk_reserve", None, environ, config_flag).disk_reserve_bytes


def _resolve_one(
    name: str, flag: str | None, environ: Mapping[str, str], config_flag: str | None
) -> Settings:
    """Return settings of which only the one named is as the operator set it."""
    values, _ = _from_file(environ, config_flag)
    given = {key: value for key, value in values.items() if key == name}
    variable = ENV_PREFIX + name.upper()
    if environ.get(variable):
        given[name] = _variable(variable, environ)
    if flag is not None:
        given[name] = Value(flag, f"--{name}", "flag")
    return _build(given)


def _variable(name: str, environ: Mapping[str, str]) -> Value:
    return Value(environ[name], f"environment variable {name}", "environment")


def _build(values: dict[str, Value]) -> Settings:
    settings = build(Settings, values, noun="setting")
    for name, fault in (
        ("listen", listen_fault(settings.listen)),
        ("connector_url", url_fault(settings.connector_url, values.get("connector_url"))),
        ("settle_timeout", timeout_fault(settings.settle_timeout)),
        ("disk_reserve", bytes_fault(settings.disk_reserve)),
    ):
        if fault is not None:
            raise ConfigError(f"setting {name} (from {values[name].source}): {fault}")
    return dataclasses.replace(settings, connector_url=settings.connector_url.rstrip("/"))


def _from_file(
    environ: Mapping[str, str], config_flag: str | None
) -> tuple[dict[str, Value], dict[str, Value]]:
    """Return the settings and the options that the settings file gives."""
    if config_flag is not None:
        path, named_by = Path(config_flag), "--config"
    elif environ.get(CONFIG_ENV):
        path, named_by = Path(environ[CONFIG_ENV]), f"environment variable {CONFIG_ENV}"
    elif DEFAULT_FILE.exists():
        path, named_by = DEFAULT_FILE, ""
    else:
        return {}, {}
    table = _read(path, f" (from {named_by})" if named_by else "")
    shown_path = one_line(path)
    options = table.pop("options", {})
    if not isinstance(options, dict):
        raise ConfigError(f"{shown_path}: options must be a table, [options]")
    known = [info.name for info in SETTINGS]
    for name in table:
        if name not in known:
            raise ConfigError(
                f"{shown_path}: unknown setting {one_line(name, 50)!r}; "
                f"known: {', '.join(known)}, and the table [options]"
            )
    return (
        {name: Value(raw, shown_path, "file") for name, raw in table.items()},
        {name: Value(raw, f"{shown_path} [options]", "file") for name, raw in options.items()},
    )


def _read(path: Path, named_by: str) -> dict[str, Any]:
    where = f"settings file {one_line(path)}{named_by}"
    try:
        # As Decimal, a fraction in the file stays exactly what was written.
        return tomllib.loads(path.read_text("utf-8"), parse_float=Decimal)
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: is not text in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: {one_line(error)}") from None
