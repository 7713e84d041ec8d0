"""``settled run`` ends in its time, whatever hangs; the next start goes on with whole books."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import trio

from settled import open_sqlite
from tests.daemon_process import daemon_process
from tests.harness import conserved
from tests.neighbours import ALL

GRACE_S = 0.2
REST_S = 1.0  # the bar
SLACK_S = 0.5 if ALL else 5.0  # for a machine that is busy with other tests

# The misdeed, the signal, and the exit code: 0 where a person asked for the end.
CASES: list[tuple[str, int | None, int]] = [
    ("settle hangs", signal.SIGTERM, 0),
    ("settle shielded", signal.SIGINT, 0),
    ("settle blocking", signal.SIGTERM, 0),
    ("settle spinning", signal.SIGINT, 0),
    ("settle stubborn", signal.SIGTERM, 0),
    ("settle leaving_a_thread", signal.SIGTERM, 0),
    ("message in_a_thread", signal.SIGINT, 0),
    ("task shielded", signal.SIGTERM, 0),
    ("task crashing", None, 1),
    ("disconnect blocking", signal.SIGTERM, 0),
    ("manager", signal.SIGTERM, 0),
]
if ALL:
    CASES += [
        ("settle in_a_thread", signal.SIGTERM, 0),
        ("settle exiting", signal.SIGTERM, 0),
        ("setup in_a_thread", signal.SIGTERM, 0),
        ("message shielded", signal.SIGTERM, 0),
        ("task exiting", None, 1),
        ("disconnect shielded", signal.SIGINT, 0),
        ("disconnect crashing", signal.SIGTERM, 1),
        ("disconnect exiting", signal.SIGTERM, 1),
    ]


def command(directory: Path, misdeed: str, *more: str) -> tuple[str, ...]:
    shutil.copy(Path(__file__).with_name("bad_engine.py"), directory)
    return (
        *("--engine", "bad_engine:create_engine", "-o", f"misdeed={misdeed}"),
        *("--grace", str(GRACE_S), "--connector-url", "http://127.0.0.1:1", *more),
    )


def ask(url: str) -> None:
    """Give the engine one of everything to do, without waiting for answers that may not come."""
    with httpx2.Client(base_url=url, trust_env=False, timeout=5) as client:
        client.post("/accounts", json={"id": "alice"}).raise_for_status()
        with contextlib.suppress(httpx2.TransportError):  # it may hold up even the answer
            client.post(
                "/accounts/alice/settlements",
                json={"amount": "5", "scale": 0},
                headers={"Idempotency-Key": "k"},
                timeout=1,
            ).raise_for_status()
        with contextlib.suppress(httpx2.TransportError):
            client.post("/accounts/alice/messages", content=b"1", timeout=0.2)


def wait_for(path: Path) -> None:
    deadline_s = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline_s, f"no {path.name}"
        time.sleep(0.02)


def seconds_to_end(directory: Path, misdeed: str, number: int | None, code: int) -> float:
    directory.mkdir()
    with daemon_process(directory, *command(directory, misdeed)) as daemon:
        if number is not None:
            ask(daemon.url)
            if not misdeed.startswith(("disconnect", "manager")):
                wait_for(directory / "under_way")
            daemon.process.send_signal(number)
        started_s = time.monotonic()
        ended = daemon.process.wait(timeout=30)
        took_s = time.monotonic() - started_s
    assert (directory / "under_way").exists()
    assert ended == code, (misdeed, ended, (directory / "log").read_text())
    return took_s


async def test_the_process_ends_in_its_time_whatever_the_engine_does(tmp_path: Path) -> None:
    took_s: dict[str, float] = {}
    limiter = trio.CapacityLimiter(4)

    async def run(n: int, misdeed: str, number: int | None, code: int) -> None:
        took_s[misdeed] = await trio.to_thread.run_sync(
            seconds_to_end, tmp_path / str(n), misdeed, number, code, limiter=limiter
        )

    async with trio.open_nursery() as nursery:
        for n, (misdeed, number, code) in enumerate(CASES):
            nursery.start_soon(run, n, misdeed, number, code)
    assert max(took_s.values()) <= GRACE_S + REST_S + SLACK_S, took_s
    for n, (misdeed, _, _) in enumerate(CASES):
        async with open_sqlite(tmp_path / str(n) / "settled.db", exclusive=True) as store:
            await conserved(store)
            if misdeed.startswith("settle"):
                assert (await store.account("alice")).requested == 5, misdeed


def events(directory: Path, name: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (directory / "log").read_text().splitlines()]
    return [line for line in lines if line["event"] == name]


async def wait_events(directory: Path, name: str) -> list[dict[str, object]]:
    with trio.fail_after(10):
        while not events(directory, name):  # noqa: ASYNC110
            await trio.sleep(0.1)
    return events(directory, name)


async def test_what_was_cut_off_is_found_at_the_next_start(tmp_path: Path) -> None:
    await trio.to_thread.run_sync(
        seconds_to_end, tmp_path / "d", "settle blocking", signal.SIGTERM, 0
    )
    with daemon_process(tmp_path / "d", *command(tmp_path / "d", "settle none")):
        async with open_sqlite(tmp_path / "d" / "settled.db", exclusive=False) as store:
            with trio.fail_after(10):
                while (await store.account("alice")).settled != 5:  # noqa: ASYNC110
                    await trio.sleep(0.05)
            await conserved(store)
    assert len(list((tmp_path / "d" / "ledger").iterdir())) == 1, "paid once"
    (told,) = events(tmp_path / "d", "ended_hard")
    assert told["engine_calls"] == ["settle of alice"]


def test_a_connector_that_never_answers_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        arguments = command(tmp_path, "settle crediting", "--connector-url", url)
        with daemon_process(tmp_path, *arguments) as daemon:
            ask(daemon.url)
            silent.accept()[0].close()  # the first attempt is cut off, the second hangs
            connection, _ = silent.accept()
            daemon.process.terminate()
            started_s = time.monotonic()
            assert daemon.process.wait(timeout=20) == 0
            assert time.monotonic() - started_s <= GRACE_S + REST_S + SLACK_S
            connection.close()


@pytest.mark.parametrize("misdeed", ["connect shielded", "connect blocking"])
def test_a_signal_ends_a_start_that_hangs_whatever_hangs_there(
    misdeed: str, tmp_path: Path
) -> None:
    with started(tmp_path, misdeed) as process:
        wait_for(tmp_path / "under_way")
        started_s = time.monotonic()
        process.terminate()
        assert process.wait(timeout=20) == 0
        assert time.monotonic() - started_s <= GRACE_S + REST_S + SLACK_S


@contextmanager
def started(
    directory: Path, misdeed: str, stderr: int | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a daemon that may never say where it listens."""
    arguments = command(directory, misdeed, "--listen", "127.0.0.1:0")
    with subprocess.Popen(
        [sys.executable, "-m", "settled", "run", *arguments], cwd=directory, stderr=stderr
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_an_engine_that_holds_up_the_rest_is_named_in_the_log(tmp_path: Path) -> None:
    for misdeed, event in (
        ("settle blocking_for_a_while", "event_loop_blocked"),
        ("settle in_a_thread", "engine_ignores_time_out"),
    ):
        directory = tmp_path / misdeed
        directory.mkdir()
        arguments = command(directory, misdeed, "--settle-timeout", "0.1")
        with daemon_process(directory, *arguments) as daemon:
            await trio.to_thread.run_sync(ask, daemon.url)
            (told,) = await wait_events(directory, event)
            if event == "event_loop_blocked":
                assert told["call"] == "settle of alice"
                assert "bad_engine.py" in str(told["stack"])
                (free,) = await wait_events(directory, "event_loop_free")
                assert 1 <= float(str(free["blocked_s"])) <= 4
            else:
                assert (told["account"], told["call"]) == ("alice", "settle")
            daemon.kill()


def test_a_log_that_nobody_reads_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """The pipe of standard error is full: whoever writes to it hangs, and so may the end."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, b"x" * 65536):
            pass
    os.set_blocking(writer, True)
    with started(tmp_path, "settle none", writer) as process:
        wait_for(tmp_path / "settled.db-wal")
        time.sleep(0.5)  # by now it hangs at its first line of log
        process.terminate()
        assert process.wait(timeout=20) == 0
    os.close(reader)
    os.close(writer)
