"""The daemon's settings: where each may come from, what wins, and what is refused."""

from pathlib import Path

import pytest

from settled.config import SETTINGS, Config, Settings, resolve, resolve_db
from settled.errors import ConfigError


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def settle(
    flags: dict[str, str | None] | None = None,
    options: list[str] | None = None,
    environ: dict[str, str] | None = None,
    config: str | None = None,
) -> Config:
    return resolve(flags or {}, options or [], environ or {}, config)


def fault(
    flags: dict[str, str | None] | None = None,
    options: list[str] | None = None,
    environ: dict[str, str] | None = None,
    config: str | None = None,
) -> str:
    with pytest.raises(ConfigError) as caught:
        settle(flags, options, environ, config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(text: str, path: str = "settled.toml") -> str:
    Path(path).write_text(text)
    return path


def test_the_defaults_are_safe_and_documented() -> None:
    found = settle()
    assert found.settings == Settings()
    assert found.settings.db == Path("settled.db")
    assert found.settings.listen == "127.0.0.1:3000"
    assert found.settings.connector_url == "http://localhost:7771"
    assert found.settings.grace == 10
    assert found.settings.settle_timeout is None
    assert {row.source for row in found.shown(None)} == {"default"}
    assert all(info.help for info in SETTINGS)
    assert {info.env for info in SETTINGS} >= {"SETTLED_DB", "SETTLED_CONNECTOR_URL"}


def test_a_flag_goes_before_a_variable_before_the_file_before_the_default() -> None:
    write('grace = 1.5\nlisten = "127.0.0.1:1"\ndb = "file.db"\n')
    environ = {"SETTLED_LISTEN": "127.0.0.1:2", "SETTLED_DB": "env.db"}
    found = settle({"db": "flag.db", "engine": None}, environ=environ)
    assert found.settings == Settings(db=Path("flag.db"), listen="127.0.0.1:2", grace=1.5)
    sources = {row.name: row.source for row in found.shown(None)}
    assert sources["db"] == "--db"
    assert sources["listen"] == "environment variable SETTLED_LISTEN"
    assert sources["grace"] == "settled.toml"
    assert sources["connector_url"] == "default"


def test_the_file_may_be_named_by_flag_or_variable() -> None:
    write("grace = 1\n")
    two, three = write("grace = 2\n", "two.toml"), write("grace = 3\n", "three.toml")
    assert settle().settings.grace == 1
    assert settle(environ={"SETTLED_CONFIG": two}).settings.grace == 2
    assert settle(environ={"SETTLED_CONFIG": two}, config=three).settings.grace == 3


def test_an_empty_variable_counts_as_not_set() -> None:
    environ = {"SETTLED_DB": "", "SETTLED_OPTION_KEY": "", "SETTLED_CONFIG": ""}
    found = settle(environ=environ)
    assert found.settings == Settings()
    assert found.options == {}


def test_options_of_the_engine_follow_the_same_precedence() -> None:
    write("[options]\na = 1\nb = 2\nc = 3\n")
    environ = {"SETTLED_OPTION_B": "env", "SETTLED_OPTION_C": "env"}
    found = settle(options=["c=flag=x", "d="], environ=environ)
    assert {name: (value.raw, value.source) for name, value in found.options.items()} == {
        "a": (1, "settled.toml [options]"),
        "b": ("env", "environment variable SETTLED_OPTION_B"),
        "c": ("flag=x", "-o"),
        "d": ("", "-o"),
    }


@pytest.mark.parametrize("text", ["sekret", "=sekret", ""])
def test_an_option_without_a_name_is_refused_and_not_repeated(text: str) -> None:
    message = fault(options=[text])
    assert message.startswith("-o takes NAME=VALUE")
    assert "sekret" not in message


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("listen", "3000"),
        ("listen", "127.0.0.1:"),
        ("listen", ":3000"),
        ("listen", "127.0.0.1:65536"),
        ("listen", "127.0.0.1:x"),
        ("listen", "::1:3000 "),
        ("connector_url", ""),
        ("connector_url", "localhost:7771"),
        ("connector_url", "ftp://localhost"),
        ("connector_url", "http://"),
        ("connector_url", "http://localhost:99999"),
        ("connector_url", "http://localhost:x"),
        ("connector_url", "http://localhost/?a=1"),
        ("connector_url", "http://localhost/#a"),
        ("connector_url", "http://local host/"),
        ("connector_url", "http://localhost/\n"),
        ("connector_url", "http://[::1"),
        ("grace", "-1"),
        ("grace", "nan"),
        ("grace", "soon"),
        ("settle_timeout", "0"),
        ("settle_timeout", "-3"),
        ("log_format", "xml"),
        ("db", ""),
    ],
)
def test_a_bad_setting_is_one_line_with_its_name_its_source_and_what_is_expected(
    name: str, raw: str
) -> None:
    source = "--" + name.replace("_", "-")
    assert fault({name: raw}).startswith(f"setting {name} (from {source}): expected ")


@pytest.mark.parametrize("listen", ["[::1]:3000", "localhost:0", "0.0.0.0:80"])
def test_a_host_and_port_may_be_of_any_kind(listen: str) -> None:
    assert settle({"listen": listen}).settings.listen == listen


def test_a_trailing_slash_of_the_connector_does_not_count() -> None:
    found = settle({"connector_url": "https://connector.example/path/"})
    assert found.settings.connector_url == "https://connector.example/path"


@pytest.mark.parametrize("name", ["certfile", "keyfile"])
def test_certificate_and_key_go_together(name: str) -> None:
    assert "give both or neither" in fault({name: "x.pem"})
    both = settle({"certfile": "c.pem", "keyfile": "k.pem"}).settings
    assert (both.certfile, both.keyfile) == (Path("c.pem"), Path("k.pem"))


def test_credentials_of_the_connector_are_concealed_and_never_on_the_command_line() -> None:
    url = "http://user:sekr@t@connector.example/"
    found = settle(environ={"SETTLED_CONNECTOR_URL": url})
    assert found.settings.connector_url == url.rstrip("/")
    shown = {row.name: row.value for row in found.shown(None)}
    assert shown["connector_url"] == "http://concealed@connector.example"
    message = fault({"connector_url": url})
    assert "set SETTLED_CONNECTOR_URL" in message
    assert "sekr" not in message
    assert "sekr" not in fault(environ={"SETTLED_CONNECTOR_URL": "http://user:sekr@t:x/"})


def test_a_bad_file_says_what_and_where() -> None:
    assert "unknown setting 'grce'; known: db, listen" in fault(config=write("grce = 1\n"))
    assert "at line 2" in fault(config=write("grace = 1\ngrace 2\n"))
    assert "options must be a table" in fault(config=write("options = 1\n"))
    wrong = fault(config=write("grace = true\n"))
    assert (
        wrong
        == "setting grace (from settled.toml): expected a number, like 1.5, at least 0; "
        + ("got True")
    )
    missing = fault(config="none.toml")
    assert missing.startswith("settings file none.toml (from --config): cannot be read: No such")
    assert "variable SETTLED_CONFIG" in fault(environ={"SETTLED_CONFIG": "none.toml"})
    Path("settled.toml").write_bytes(b"\xff")
    assert "not text in UTF-8" in fault()


def test_without_an_engine_every_option_is_concealed() -> None:
    rows = settle(options=["key=sekret"]).shown(None)
    assert [(row.name, row.value) for row in rows][-1] == ("options.key", "concealed")


def test_other_commands_need_only_the_database() -> None:
    assert resolve_db(None, {}) == Path("settled.db")
    write('db = "file.db"\nlisten = "nonsense"\n')
    assert resolve_db(None, {}) == Path("file.db")
    assert resolve_db(None, {"SETTLED_DB": "env.db"}) == Path("env.db")
    assert resolve_db("flag.db", {"SETTLED_DB": "env.db"}) == Path("flag.db")
    assert resolve_db(None, {}, write("db = 'b.db'", "b.toml")) == Path("b.db")
    with pytest.raises(ConfigError, match=r"setting db \(from --db\)"):
        resolve_db("", {})
