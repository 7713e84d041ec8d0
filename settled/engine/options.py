"""An engine's options, declared once as a typed dataclass.

Example::

    @dataclass(frozen=True)
    class Options:
        url: str = option(help="where the ledger's node listens")
        precision: int = option(default=2, minimum=0, maximum=18, help="decimals of the asset")
        key: str = option(secret=True, help="the key that signs payments")

    def create_engine(options: Options) -> Connect: ...

Each then may be given as ``-o precision=6``, as ``SETTLED_OPTION_PRECISION=6`` or in the
``[options]`` table of the settings file. A secret is taken from ``SETTLED_OPTION_KEY``, or from the
file that the option ``key_file`` names, never from the command line or the settings file itself.

The types that an option may have are ``str``, ``int``, ``bool``, ``Decimal``, ``float``, ``Path``,
and ``X | None`` of those. Further checks belong in ``__post_init__``, as ``ValueError``.
"""

import dataclasses
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from settled.engine import values as kinds
from settled.engine.secrets import (
    CONCEALED,
    choose_secret,
    conceal,
    conceal_url,
    has_credentials,
    url_secrets,
)
from settled.engine.values import Value
from settled.errors import ConfigError
from settled.text import describe_error, one_line

T = TypeVar("T")
ENV_PREFIX: Final = "SETTLED_OPTION_"

_METADATA: Final = "settled.option"
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Limits:
    help: str = ""
    secret: bool = False
    url: bool = False
    minimum: Any = None
    maximum: Any = None
    choices: tuple[Any, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionInfo:
    """What is declared about one option. ``default`` means nothing if it is ``required``."""

    name: str
    kind: type
    required: bool
    default: Any = dataclasses.field(repr=False)
    env: str
    help: str
    secret: bool
    url: bool
    minimum: Any
    maximum: Any
    choices: tuple[Any, ...] | None

    @property
    def type_name(self) -> str:
        """The option's type in a word, such as ``integer``."""
        return "URL" if self.url else kinds.TYPE_NAMES[self.kind]

    @property
    def default_text(self) -> str:
        """The default as it would be written; empty if there is none."""
        return self.show(self.default)

    @property
    def expected(self) -> str:
        """What a value of this option must look like."""
        return kinds.expected(self.kind, self.minimum, self.maximum, self.choices)

    def allows(self, value: Any) -> bool:
        """Say whether a value of the right type is in range and among the choices."""
        return (
            (self.choices is None or value in self.choices)
            and (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
        )

    def conceal(self, value: object) -> object:
        """Return a value of this option without what is secret in it."""
        if value is None or not (self.secret or self.url):
            return value
        return CONCEALED if self.secret else conceal_url(str(value))

    def show(self, value: object) -> str:
        """Return a value of this option as it may be shown."""
        return kinds.show(self.conceal(value))

    def secrets(self, value: object) -> list[object]:
        """Return what must be in no message, of a value of this option."""
        if value is None or not (self.secret or self.url):
            return []
        return [value] if self.secret else [*url_secrets(str(value))]


@dataclass(frozen=True, slots=True)
class Shown:
    """An option's value, fit to be shown (a secret is concealed), and where it came from."""

    name: str
    value: Any
    source: str


def option(
    *,
    default: Any = dataclasses.MISSING,
    help: str = "",
    secret: bool = False,
    url: bool = False,
    minimum: Any = None,
    maximum: Any = None,
    choices: tuple[Any, ...] | None = None,
) -> Any:
    """Declare a field of an options dataclass.

    Args:
        default: its value when none is given; without a default the option is required.
        help: one line for the operator, with the unit.
        secret: whether to keep it out of the command line, the settings file and everything shown.
        url: whether it is a URL, in which there may be a key: of it only the host is shown, and
            one with a user or a password is refused on the command line.
        minimum: the least value that is allowed, of a number.
        maximum: the greatest.
        choices: all values that are allowed.
    """
    metadata = {_METADATA: _Limits(help, secret, url, minimum, maximum, choices)}
    return dataclasses.field(default=default, repr=not (secret or url), metadata=metadata)


def describe(options_class: type, *, env_prefix: str = ENV_PREFIX) -> list[OptionInfo]:
    """Return what an options dataclass declares, in its order.

    Raises:
        ConfigError: when it is not a dataclass whose fields can all be options.
    """
    where = f"options class {options_class.__qualname__}"
    if not dataclasses.is_dataclass(options_class):
        raise ConfigError(f"{where} must be a dataclass")
    try:
        hints = typing.get_type_hints(options_class)
    except Exception as error:
        raise ConfigError(f"{where}: {describe_error(error)}") from error
    infos = [
        _info(where, field, hints[field.name], env_prefix)
        for field in dataclasses.fields(options_class)
        if field.init
    ]
    names = {info.name for info in infos}
    for info in infos:
        if info.secret and f"{info.name}_file" in names:
            raise ConfigError(f"{where}: {info.name}_file is taken: {info.name} is a secret")
    return infos


def _info(where: str, field: "dataclasses.Field[Any]", hint: object, env_prefix: str) -> OptionInfo:
    if not _NAME.fullmatch(field.name):
        raise ConfigError(f"{where}: {field.name!r} must be lower case, as options are")
    kind, _ = kinds.split_optional(hint)
    if kind is None:
        known = ", ".join(known.__name__ for known in kinds.TYPE_NAMES)
        raise ConfigError(f"{where}: {field.name} must be one of {known}, or one of them | None")
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    limits = field.metadata.get(_METADATA, _Limits())
    if limits.url and kind is not str:
        raise ConfigError(f"{where}: {field.name} is a URL, so it must be str")
    required = default is dataclasses.MISSING
    return OptionInfo(
        name=field.name,
        kind=kind,
        required=required,
        default=None if required else default,
        env=env_prefix + field.name.upper(),
        help=limits.help,
        secret=limits.secret,
        url=limits.url,
        minimum=limits.minimum,
        maximum=limits.maximum,
        choices=limits.choices,
    )


def build(options_class: type[T], values: Mapping[str, Value], *, noun: str = "option") -> T:
    """Return the options, made from the values given and the defaults.

    Raises:
        ConfigError: in one line that names the option, where its value came from and what is
            expected; a value that may be a secret is never part of it.
    """
    infos = describe(options_class)
    chosen = _choose(infos, values, noun)
    arguments = {}
    for info in infos:
        if info.name in chosen:
            arguments[info.name] = _parse(info, chosen[info.name], noun)
        elif info.required:
            raise ConfigError(_missing(info, noun))
    secrets = [secret for info in infos for secret in info.secrets(arguments.get(info.name))]
    try:
        return options_class(**arguments)
    except ValueError as error:
        # Without its cause: a traceback of that could spell a secret out.
        raise ConfigError(f"{noun}s: {one_line(conceal(str(error), secrets))}") from None


def shown(options_class: type, values: Mapping[str, Value]) -> list[Shown]:
    """Return every option with its value and where it came from, secrets concealed.

    Raises:
        ConfigError: as ``build`` does.
    """
    options: object = build(options_class, values)
    infos = describe(options_class)
    chosen = _choose(infos, values, "option")
    rows = []
    for info in infos:
        value = info.conceal(getattr(options, info.name))
        source = chosen[info.name].source if info.name in chosen else "default"
        rows.append(Shown(info.name, value, source))
    return rows


def secrets_of(options: object) -> list[object]:
    """Return what is secret in the options, to be kept out of messages."""
    infos = describe(type(options))
    return [secret for info in infos for secret in info.secrets(getattr(options, info.name))]


def _choose(infos: list[OptionInfo], values: Mapping[str, Value], noun: str) -> dict[str, Value]:
    """Check the names and read the secrets; return the value to use of each option given."""
    names = {info.name for info in infos}
    files = {f"{info.name}_file": info for info in infos if info.secret}
    for name, value in values.items():
        if name not in names and name not in files:
            known = ", ".join(f"{info.name}_file" if info.secret else info.name for info in infos)
            raise ConfigError(
                f"unknown {noun} {one_line(name, 50)!r} (from {value.source}); "
                f"known: {known or 'none'}"
            )
    chosen = {name: value for name, value in values.items() if name in names}
    for file_name, info in files.items():
        secret = choose_secret(
            info.name, info.env, values.get(info.name), file_name, values.get(file_name)
        )
        if secret is not None:
            chosen[info.name] = secret
    return chosen


def _parse(info: OptionInfo, value: Value, noun: str) -> Any:
    try:
        parsed = kinds.parse(info.kind, value.raw)
    except ValueError:
        parsed = None
    if parsed is None or not info.allows(parsed):
        given = "" if info.secret or info.url else f"; got {one_line(repr(value.raw), 60)}"
        # Outside of the handler: the parser's own message could spell a secret out.
        raise ConfigError(
            f"{noun} {info.name} (from {value.source}): expected {info.expected}{given}"
        )
    if info.url and value.origin == "flag" and has_credentials(parsed):
        raise ConfigError(
            f"{noun} {info.name}: credentials do not belong on the command line, where others can "
            f"see them: set {info.env}, or {info.name} in the settings file"
        )
    return parsed


def _missing(info: OptionInfo, noun: str) -> str:
    how = f"-o {info.name}_file=PATH" if info.secret else f"-o {info.name}=VALUE"
    return f"{noun} {info.name} is required: give {how} or set {info.env} ({info.expected})"
