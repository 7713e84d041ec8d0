"""Options: declared once, parsed strictly, and secrets kept out of sight."""

import traceback
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settled.engine.options import build, describe, option, shown
from settled.engine.values import Origin, Value
from settled.errors import ConfigError

SECRET = "hunter2-sëcret"


@dataclass(frozen=True)
class Options:
    url: str = option(help="where the node listens")
    precision: int = option(default=2, minimum=0, maximum=18, help="decimals of the asset")
    fee: Decimal = option(default=Decimal("0.10"), minimum=Decimal(0))
    delay_s: float = option(default=1.5, minimum=0)
    testnet: bool = option(default=False)
    network: str = option(default="main", choices=("main", "test"))
    wallet: Path | None = option(default=None)
    plain: int = 5
    tries: int | None = field(default=None)


@dataclass(frozen=True)
class Guarded:
    key: str = option(secret=True, help="signs payments")
    pin: int | None = option(default=None, secret=True)
    name: str = option(default="n")

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise ValueError(f"name {self.name} does not go\nwith key {self.key!r}")


def flag(raw: object) -> Value:
    return Value(raw, "-o", "flag")


def env(raw: str, name: str = "X") -> Value:
    return Value(raw, f"environment variable {name}", "environment")


def toml(raw: object) -> Value:
    return Value(raw, "settled.toml [options]", "file")


def fault(options_class: type, values: dict[str, Value]) -> str:
    with pytest.raises(ConfigError) as caught:
        build(options_class, values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_declared_is_described() -> None:
    infos = {info.name: info for info in describe(Options)}
    assert list(infos)[:3] == ["url", "precision", "fee"]
    assert infos["url"].required
    assert infos["url"].help == "where the node listens"
    assert infos["url"].env == "SETTLED_OPTION_URL"
    assert not infos["precision"].required
    assert infos["precision"].default_text == "2"
    assert infos["precision"].expected == "a whole number, like 12, from 0 to 18"
    assert infos["fee"].default_text == "0.10"
    assert infos["testnet"].default_text == "false"
    assert infos["wallet"].default_text == ""
    assert infos["network"].expected == "one of main, test"
    assert [infos[name].type_name for name in ("url", "fee", "delay_s", "testnet", "wallet")] == [
        "text",
        "decimal",
        "number",
        "boolean",
        "path",
    ]


def test_values_get_the_type_that_is_declared() -> None:
    options = build(
        Options,
        {
            "url": flag("http://x"),
            "precision": env("6"),
            "fee": toml(Decimal("0.25")),
            "delay_s": flag("1e-3"),
            "testnet": flag("Yes"),
            "wallet": flag("/w"),
            "tries": toml(3),
        },
    )
    assert options == Options("http://x", 6, Decimal("0.25"), 0.001, True, "main", Path("/w"), 5, 3)
    assert type(options.fee) is Decimal


def test_without_values_the_defaults_hold() -> None:
    assert build(Options, {"url": flag("u")}) == Options("u")


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("precision", "1_0"),
        ("precision", " 1"),
        ("precision", "1.0"),
        ("precision", ""),
        ("precision", "\u0661"),
        ("precision", "9" * 5000),
        ("precision", "19"),
        ("precision", "-1"),
        ("precision", True),
        ("precision", Decimal("1.0")),
        ("precision", [1]),
        ("fee", "NaN"),
        ("fee", "Infinity"),
        ("fee", "1e5"),
        ("fee", "1_0.5"),
        ("fee", "-0.1"),
        ("fee", Decimal("inf")),
        ("fee", Decimal("1e999999")),
        ("fee", 0.1),
        ("delay_s", "inf"),
        ("delay_s", "nan"),
        ("delay_s", "1e999"),
        ("delay_s", Decimal("nan")),
        ("delay_s", 10**400),
        ("testnet", "2"),
        ("testnet", ""),
        ("testnet", 1),
        ("network", "dev"),
        ("url", 5),
        ("url", "a\0b"),
        ("wallet", ""),
        ("wallet", {"a": 1}),
    ],
)
def test_what_is_not_exactly_a_value_is_refused_by_name_source_and_form(
    name: str, raw: object
) -> None:
    message = fault(Options, {"url": flag("u"), name: flag(raw)})
    assert message.startswith(f"option {name} (from -o): expected ")


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        *((raw, True) for raw in ("true", "TRUE", "yes", "1", "on")),
        *((raw, False) for raw in ("false", "no", "No", "0", "off")),
    ],
)
def test_booleans_have_their_usual_words(raw: str, value: bool) -> None:
    assert build(Options, {"url": flag("u"), "testnet": flag(raw)}).testnet is value


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=0, places=9))
def test_a_decimal_keeps_every_digit(fee: Decimal) -> None:
    assert build(Options, {"url": flag("u"), "fee": flag(format(fee, "f"))}).fee == fee


@given(st.integers() | st.text() | st.booleans() | st.lists(st.integers()) | st.decimals())
def test_any_value_is_taken_or_refused_with_a_clear_line(raw: object) -> None:
    for info in describe(Options):
        message = ""
        try:
            build(Options, {"url": flag("u"), info.name: toml(raw)})
        except ConfigError as error:
            message = str(error)
        assert message.isprintable()


def test_a_required_option_that_is_missing_says_how_to_give_it() -> None:
    assert fault(Options, {}) == (
        "option url is required: give -o url=VALUE or set SETTLED_OPTION_URL (text)"
    )
    assert "-o key_file=PATH" in fault(Guarded, {})


def test_an_unknown_option_lists_those_that_there_are() -> None:
    message = fault(Options, {"ulr": env("x", "SETTLED_OPTION_ULR")})
    assert "unknown option 'ulr' (from environment variable SETTLED_OPTION_ULR)" in message
    assert "known: url, precision, fee" in message
    assert "known: key_file, pin_file, name" in fault(Guarded, {"x": flag("")})


def test_a_check_of_the_engines_own_is_reported_in_one_line() -> None:
    @dataclass
    class Pair:
        low: int = 1
        high: int = 2

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low must be\nbelow high")

    assert fault(Pair, {"low": flag("3")}) == "options: low must be below high"


# --- secrets ---


def test_a_secret_comes_from_the_environment() -> None:
    assert build(Guarded, {"key": env(SECRET)}).key == SECRET


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
@pytest.mark.parametrize("value", [flag, env, toml])
def test_a_secret_comes_from_a_file(tmp_path: Path, ending: str, value: Any) -> None:
    path = tmp_path / "key"
    path.write_bytes((SECRET + ending).encode())
    assert build(Guarded, {"key_file": value(str(path))}).key == SECRET


@pytest.mark.parametrize("value", [flag, toml])
def test_a_secret_is_refused_where_others_can_read_it(value: Any) -> None:
    message = fault(Guarded, {"key": value(SECRET)})
    assert "use -o key_file=PATH or the environment variable SETTLED_OPTION_KEY" in message
    assert SECRET not in message


@pytest.mark.parametrize(
    ("file_origin", "wins"), [("flag", "file"), ("file", "environment"), ("environment", None)]
)
def test_of_two_ways_to_give_a_secret_the_stronger_one_holds(
    tmp_path: Path, file_origin: Origin, wins: str | None
) -> None:
    path = tmp_path / "key"
    path.write_text("file")
    values = {"key": env("environment"), "key_file": Value(str(path), "there", file_origin)}
    if wins is None:
        assert "given twice" in fault(Guarded, values)
    else:
        assert build(Guarded, values).key == wins


def test_a_key_file_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    missing = fault(Guarded, {"key_file": flag(str(tmp_path / "none"))})
    assert missing.startswith("option key_file (from -o): cannot read ")
    assert "No such file" in missing
    (tmp_path / "empty").write_text("\n")
    assert "is empty" in fault(Guarded, {"key_file": flag(str(tmp_path / "empty"))})
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert "not text" in fault(Guarded, {"key_file": flag(str(tmp_path / "binary"))})
    (tmp_path / "large").write_bytes(b"\xc3\xa9" * 40_000)
    assert "larger than" in fault(Guarded, {"key_file": flag(str(tmp_path / "large"))})
    assert "expected a path" in fault(Guarded, {"key_file": toml(5)})


def test_a_secret_is_never_spelled_out() -> None:
    values = {"key": env(SECRET), "pin": env("not-a-number")}
    shown_texts = [repr(build(Guarded, {"key": env(SECRET)})), repr(values)]
    for extra in ({"pin": env(SECRET)}, {"name": flag("bad")}):
        with pytest.raises(ConfigError) as caught:
            build(Guarded, {"key": env(SECRET), **extra})
        shown_texts += traceback.format_exception(caught.value)
    rows = shown(Guarded, {"key": env(SECRET, "SETTLED_OPTION_KEY")})
    shown_texts.append(repr(rows))
    assert "concealed" in shown_texts[-1]
    for text in shown_texts:
        assert SECRET not in text
        assert ascii(SECRET)[1:-1] not in text


def test_options_are_shown_with_where_they_came_from(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET)
    values = {"key_file": flag(str(tmp_path / "key")), "name": toml("x")}
    rows = {row.name: (row.value, row.source) for row in shown(Guarded, values)}
    assert rows["key"] == ("concealed", f"file {tmp_path / 'key'} (key_file from -o)")
    assert rows["pin"] == (None, "default")
    assert rows["name"] == ("x", "settled.toml [options]")


# --- URLs, in which a key may be ---


@dataclass(frozen=True)
class Remote:
    node: str = option(url=True)
    spare: str | None = option(default=None, url=True)
    name: str = option(default="n")

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise ValueError(f"cannot use {self.node} (its path, {self.node.split('/')[-1]})")


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("http://127.0.0.1:8545", "http://127.0.0.1:8545"),
        ("https://node.example/", "https://node.example/"),
        ("https://node.example/v3/s3kret", "https://node.example/concealed"),
        ("https://node.example?key=s3kret", "https://node.example/concealed"),
        ("https://node.example/#s3kret", "https://node.example/concealed"),
        ("https://us:s3kret@node.example:1", "https://concealed@node.example:1"),
        ("https://s3kret@[::1]:1/v3/x", "https://concealed@[::1]:1/concealed"),
        ("https://us:s3k/ret@node.example", "concealed"),
        ("http://[s3kret", "concealed"),
        ("s3kret", "concealed"),
        ("//s3kret", "concealed"),
        ("x://h:s3kret", "concealed"),
    ],
)
def test_of_a_url_only_what_is_no_key_is_shown(url: str, seen: str) -> None:
    values = {"node": env(url)}
    (row, spare, _) = shown(Remote, values)
    assert (row.value, spare.value) == (seen, None)
    assert "s3kret" not in repr(build(Remote, values))
    (info, *_) = describe(Remote)
    assert (info.show(url), info.type_name) == (seen, "URL")


@given(st.from_regex(r"[a-z0-9]{4,9}", fullmatch=True), st.sampled_from(["env", "toml"]))
def test_no_part_of_a_url_that_may_be_a_key_is_in_an_error(secret: str, origin: str) -> None:
    secret = secret + "XYZ"
    for url in (
        f"https://node/v3/{secret}",
        f"https://u:{secret}@node",
        f"https://{secret}@node/",
        f"https://node/?a=1&key={secret}",
    ):
        value = env(url) if origin == "env" else toml(url)
        message = fault(Remote, {"node": value, "name": flag("bad")})
        assert secret not in message
        assert "node" in message


def test_a_bad_url_is_not_repeated_and_credentials_come_by_no_flag() -> None:
    assert "s3kret" not in fault(Remote, {"node": toml(["http://s3kret"])})
    message = fault(Remote, {"node": flag("https://us:s3kret@node")})
    assert "s3kret" not in message
    assert "set SETTLED_OPTION_NODE" in message
    assert build(Remote, {"node": flag("https://node/v3/x")}).node == "https://node/v3/x"


# --- declarations that cannot work ---


def test_an_options_class_that_cannot_work_is_told_so() -> None:
    @dataclass
    class Odd:
        tags: list[str]

    @dataclass
    class Taken:
        key_file: str
        key: str = option(default="", secret=True)

    @dataclass
    class Upper:
        URL: str

    @dataclass
    class Counted:
        node: int = option(url=True)

    @dataclass
    class Unresolved:
        url: "Missing"  # type: ignore[name-defined]  # noqa: F821

    for options_class, words in (
        (Odd, "tags must be one of str, int, bool, Decimal, float, Path"),
        (Taken, "key_file is taken"),
        (Counted, "node is a URL, so it must be str"),
        (Upper, "'URL' must be lower case"),
        (Unresolved, "NameError"),
        (int, "must be a dataclass"),
    ):
        with pytest.raises(ConfigError, match=words):
            describe(options_class)
