"""The command line as its user meets it: exit codes, one-line errors, the daemon's life."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from settled.cli import plugins
from settled.cli.group import MainGroup, telling_leaf
from settled.cli.root import COMMANDS, main
from settled.errors import ConfigError, NotFound, StoreHeld
from settled.version import VERSION

ENGINE = '''
import os
from dataclasses import dataclass

import trio

from settled.engine.options import option


@dataclass(frozen=True)
class Options:
    key: str = option(secret=True, help="signs payments")
    precision: int = option(default=2, maximum=18, help="decimals")


class Engine:
    async def settle(self, account_id, amount):
        return amount


def create_engine(options: Options):
    """Pay by hand."""
    return connect


async def connect(services):
    """Pay by hand, without options."""
    if "HANG_AT_START" in os.environ:
        print("hanging", flush=True)
        await trio.sleep_forever()
    if "CRASH" in os.environ:
        services.nursery.start_soon(crash)
    engine = Engine()
    if "HANG_AT_END" in os.environ:
        engine.disconnect = hang
    return engine


async def crash():
    raise RuntimeError("the ledger is gone")


async def hang():
    print("hanging", flush=True)
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


async def broken(services):
    return Engine.settle
'''


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_engine", raising=False)
    for name in [name for name in os.environ if name.startswith("SETTLED_")]:
        monkeypatch.delenv(name)
    (tmp_path / "my_engine.py").write_text(ENGINE)


def run(*args: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, args, env=env, prog_name="settled")


def process(*args: str, **env: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "settled", *args],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*args: str, **env: str) -> tuple[int, str, str]:
    with process(*args, **env) as child:
        stdout, stderr = child.communicate(timeout=30)
    return child.returncode, stdout, stderr


# --- the group ---


def test_the_version_is_told() -> None:
    assert finish("--version") == (0, f"settled {VERSION}\n", "")


def _every_command(group: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield from _every_command(command, (*path, name))


def test_every_command_shows_its_help_with_examples() -> None:
    paths = list(_every_command(main, ()))
    assert {path[0] for path in paths if path} == {*COMMANDS, *plugins.names()}
    for path in paths:
        for flag in ("-h", "--help"):
            result = run(*path, flag)
            assert result.exit_code == 0, path
            assert "Examples:\n    settled " in result.output, path


def test_wrong_usage_is_exit_code_2() -> None:
    for args in (("nonsense",), ("run", "--nonsense"), ("engines", "a", "b")):
        assert run(*args).exit_code == 2


def failing(error: BaseException) -> MainGroup:
    """Return a command line whose one command raises ``error``."""
    group = MainGroup(name="settled")

    @group.command()
    @click.option("--debug", is_flag=True)
    @click.pass_context
    def fail(ctx: click.Context, debug: bool) -> None:
        ctx.meta["settled.cli.debug"] = debug
        raise error

    return group


GROUPED = ExceptionGroup(
    "outer", [OSError("x"), ExceptionGroup("inner", [StoreHeld("held by\npid 7")])]
)


@pytest.mark.parametrize(
    ("error", "exit_code", "stderr"),
    [
        (ConfigError("no good"), 78, "settled: error: no good\n"),
        (NotFound("no such thing"), 3, "settled: error: no such thing\n"),
        (GROUPED, 75, "settled: error: held by pid 7\n"),
        (ValueError("bad\x1b"), 1, "settled: error: ValueError: bad\\x1b (--debug shows where)\n"),
        (
            ExceptionGroup("g", [KeyError("k")]),
            1,
            "settled: error: KeyError: 'k' (--debug shows where)\n",
        ),
        (
            ExceptionGroup("g", [BrokenPipeError(32, "Broken pipe")]),
            1,
            "settled: error: BrokenPipeError: [Errno 32] Broken pipe (--debug shows where)\n",
        ),
        (KeyboardInterrupt(), 130, ""),
        (BaseExceptionGroup("g", [ValueError("x"), KeyboardInterrupt()]), 130, ""),
    ],
)
def test_an_error_ends_as_one_line_with_its_exit_code(
    error: BaseException, exit_code: int, stderr: str
) -> None:
    result = CliRunner().invoke(failing(error), ["fail"])
    assert (result.exit_code, result.stderr, result.stdout) == (exit_code, stderr, "")


def test_the_traceback_is_shown_only_with_debug() -> None:
    result = CliRunner().invoke(failing(GROUPED), ["fail", "--debug"])
    assert result.exit_code == 75
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("settled: error: held by pid 7\n")
    for args in (("--debug", "run"), ("run", "--debug")):
        assert "Traceback" in run(*args).stderr
    assert "Traceback" not in run("run").stderr


def test_of_a_group_the_telling_leaf_is_found() -> None:
    held = StoreHeld("x")
    assert telling_leaf(GROUPED) is not held
    assert isinstance(telling_leaf(GROUPED), StoreHeld)
    assert telling_leaf(held) is held


def test_a_reader_who_leaves_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    child = subprocess.run(
        [sys.executable, "-m", "settled", "config", "show"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )
    os.close(writer)
    assert child.stderr == ""


def test_commands_start_without_the_servers_libraries() -> None:
    code = (
        "import sys\n"
        "from settled.cli import main\n"
        "main(['config', 'show'], standalone_mode=False)\n"
        "print(sorted({'quart', 'hypercorn', 'httpx2'} & set(sys.modules)))\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert child.stdout.endswith("[]\n")


# --- engines, config ---


def test_the_options_of_an_engine_are_shown(tmp_path: Path) -> None:
    result = run("engines", "my_engine:create_engine")
    assert result.exit_code == 0
    assert "Pay by hand." in result.stdout
    assert re.search(r"key_file +path +required +SETTLED_OPTION_KEY +signs paym", result.stdout)
    assert re.search(r"precision +integer +2 +SETTLED_OPTION_PRECISION +decimals", result.stdout)
    shown = json.loads(run("engines", "my_engine:create_engine", "--json").stdout)
    assert shown["path"] == "my_engine:create_engine"
    assert shown["options"][0] == {
        "name": "key",
        "type": "text",
        "required": True,
        "default": None,
        "secret": True,
        "env": "SETTLED_OPTION_KEY",
        "expected": "text",
        "help": "signs payments",
    }


def test_engines_lists_what_is_installed_even_if_one_is_broken(tmp_path: Path) -> None:
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[settled.engines]\nbyhand = my_engine:create_engine\nbad = my_engine:gone\n"
    )
    sys.path.insert(0, str(tmp_path))
    rows = {row["name"]: row for row in json.loads(run("engines", "--json").stdout)}
    assert rows["byhand"] == {
        "name": "byhand",
        "path": "my_engine:create_engine",
        "summary": "Pay by hand.",
    }
    assert "cannot be loaded: " in rows["bad"]["summary"]
    assert "my_engine:create_engine" in run("engines").stdout


def test_an_engine_that_is_not_there_is_exit_code_3() -> None:
    result = run("engines", "nothing")
    assert result.exit_code == 3
    assert result.stderr.startswith("settled: error: no engine 'nothing' is installed")


def rows_of(result: Result) -> dict[str, tuple[Any, str]]:
    assert result.exit_code == 0, result.output
    return {row["setting"]: (row["value"], row["source"]) for row in json.loads(result.stdout)}


def test_config_show_says_where_each_value_came_from_and_conceals_secrets() -> None:
    Path("settled.toml").write_text("grace = 2.5\n[options]\nprecision = 6\n")
    env = {"SETTLED_OPTION_KEY": "sekret", "SETTLED_CONNECTOR_URL": "http://u:sekret@x"}
    args = ("config", "show", "--engine", "my_engine:create_engine")
    rows = rows_of(run(*args, "--json", env=env))
    assert rows["engine"] == ("my_engine:create_engine", "--engine")
    assert rows["grace"] == (2.5, "settled.toml")
    assert rows["settle_timeout"] == (None, "default")
    assert rows["db"] == ("settled.db", "default")
    assert rows["connector_url"][0] == "http://concealed@x"
    assert rows["options.precision"] == (6, "settled.toml [options]")
    assert rows["options.key"] == ("concealed", "environment variable SETTLED_OPTION_KEY")
    table = run(*args, env=env)
    assert "sekret" not in table.output
    assert re.search(r"options\.key +concealed +environment variable", table.stdout)


def test_config_show_refuses_what_run_would_refuse() -> None:
    result = run("config", "show", "--engine", "my_engine:create_engine")
    assert result.exit_code == 78
    assert "option key is required" in result.stderr


# --- run ---


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "no engine: give --engine"),
        (("--engine", "no_engine:connect"), "there is no module no_engine"),
        (("--engine", "my_engine:conect"), "did you mean connect?"),
        (("--engine", "my_engine:connect", "-o", "x=1"), "takes no options"),
        (("--engine", "my_engine:create_engine", "-o", "key=sekret"), "-o key_file=PATH"),
        (("--engine", "my_engine:connect", "--listen", "3000"), "expected HOST:PORT"),
        (("--engine", "my_engine:connect", "--certfile", "x"), "both or neither"),
    ],
)
def test_run_refuses_a_bad_configuration_before_it_touches_anything(
    args: tuple[str, ...], words: str
) -> None:
    result = run("run", *args)
    assert result.exit_code == 78
    assert words in result.stderr
    assert result.stderr.startswith("settled: error: ")
    assert result.stderr.count("\n") == 1
    assert "sekret" not in result.stderr
    assert not Path("settled.db").exists()


def test_run_refuses_an_engine_that_is_none_before_it_listens() -> None:
    exit_code, stdout, stderr = finish("run", "--engine", "my_engine:broken")
    assert (exit_code, stdout) == (78, "")
    assert stderr.endswith(
        "has no settle; expected `async def settle(self, account_id, amount, settlement_id)`\n"
    )


def daemon(**env: str) -> "subprocess.Popen[str]":
    return process("run", "--engine", "my_engine:connect", "--listen", "127.0.0.1:0", **env)


def line(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    return child.stdout.readline()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_says_where_it_listens_and_ends_well_at_a_signal(number: signal.Signals) -> None:
    with daemon() as child:
        assert re.fullmatch(
            r"settled: my_engine:connect listens on http://127\.0\.0\.1:\d+, "
            r"database settled\.db\n",
            line(child),
        )
        second = finish("run", "--engine", "my_engine:connect", "--listen", "127.0.0.1:0")
        assert second[0] == 75
        assert f"pid {child.pid}" in second[2]
        child.send_signal(number)
        stdout, stderr = child.communicate(timeout=30)
    assert (child.returncode, stdout) == (0, "")
    events = [json.loads(text)["event"] for text in stderr.splitlines()]
    assert events == ["starting", "serving", "draining", "stopped"]


def test_a_port_in_use_is_one_line() -> None:
    with daemon() as child:
        port = re.findall(r":(\d+),", line(child))[0]
        args = ("--engine", "my_engine:connect", "--listen", f"127.0.0.1:{port}")
        exit_code, stdout, stderr = finish("run", *args, "--db", "other.db")
        child.terminate()
        child.communicate(timeout=30)
    assert (exit_code, stdout) == (1, "")
    assert stderr.splitlines()[-1].startswith(f"settled: error: cannot listen on 127.0.0.1:{port}")


def test_a_crash_of_the_engine_ends_the_daemon_with_the_reason() -> None:
    exit_code, _, stderr = finish(
        "run", "--engine", "my_engine:connect", "--listen", "127.0.0.1:0", CRASH="1"
    )
    assert exit_code == 1
    *log, last = stderr.splitlines()
    assert last.startswith("settled: error: ")
    assert "the ledger is gone" in last
    crash = next(entry for entry in map(json.loads, log) if entry["event"] == "engine_crashed")
    assert "the ledger is gone" in crash["reason"]


def test_a_secret_that_everybody_can_read_is_logged() -> None:
    args = ("--engine", "my_engine:create_engine", "-o", "key_file=key", "--listen", "127.0.0.1:0")
    Path("key").write_text("sekret")
    for mode, told in ((0o600, False), (0o644, True)):
        Path("key").chmod(mode)
        _, _, stderr = finish("run", *args, CRASH="1")
        log = [json.loads(text) for text in stderr.splitlines()[:-1]]
        files = [entry["file"] for entry in log if entry["event"] == "secret_readable"]
        assert files == (["key"] if told else [])


def test_a_signal_ends_a_daemon_that_hangs_at_its_start() -> None:
    with daemon(HANG_AT_START="1") as child:
        assert line(child) == "hanging\n"
        child.terminate()
        assert child.wait(timeout=30) == 0


def test_a_second_signal_ends_a_daemon_that_hangs_at_its_end() -> None:
    with daemon(HANG_AT_END="1") as child:
        assert "listens on" in line(child)
        child.terminate()
        assert line(child) == "hanging\n"
        child.terminate()  # at once: the same wish, come twice
        time.sleep(1)
        assert child.poll() is None
        child.terminate()
        assert child.wait(timeout=30) == 128 + signal.SIGTERM
