"""``settled check``: a line for each thing that must be right, and nothing changed by looking."""

import errno
import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import trustme
from click.testing import CliRunner, Result

from settled.cli import main
from settled.store.lock import held
from tests.cli.books import begun, cli


@pytest.fixture
def db(db: Path) -> Path:
    begun(db)
    return db


def check(*args: str, code: int = 0, connector: bool = False) -> dict[str, tuple[str, str]]:
    """Run it; return the status and the text of each check by its name."""
    more = () if connector else ("--no-connector",)
    result = run(*args, *more, "--json")
    rows = json.loads(result.stdout)
    assert result.exit_code == code, rows
    assert [sorted(row) for row in rows] == [["check", "status", "what"]] * len(rows)
    found = {row["check"]: (row["status"], row["what"]) for row in rows}
    assert len(found) == len(rows)
    assert any(status == "FAIL" for status, _ in found.values()) == (code == 1)
    return found


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["check", *args])


def with_db(db: Path, *args: str) -> tuple[str, ...]:
    return ("--db", str(db), "--engine", "loopback", "--listen", "127.0.0.1:0", *args)


def on_disk(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Return all files with their content and times, but the index that SQLite keeps of a log."""
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file() and not path.name.endswith("-shm")
    }


@contextmanager
def answering(status: int) -> Iterator[str]:
    """Run a connector that knows one answer; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_when_all_is_well_every_check_says_so(db: Path) -> None:
    with answering(404) as url:
        found = check(*with_db(db, "--connector-url", url), connector=True)
    assert list(found) == [
        "settings",
        "engine",
        "listen",
        "tls",
        "database",
        "daemon",
        "books",
        "restored",
        "connector",
        "disk",
    ]
    assert {status for status, _ in found.values()} == {"OK"}
    assert found["connector"][1] == f"{url} answers (status 404)"
    assert found["daemon"][1] == "none runs"


def test_a_line_for_each_check_is_printed(db: Path) -> None:
    result = run(*with_db(db, "--no-connector"))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 9
    assert all(line.startswith("OK    ") for line in lines)
    assert lines[4].startswith(f"OK    database   {db}, 0.")


@pytest.mark.parametrize("state", ["at rest", "with a log", "held"])
def test_nothing_is_changed_on_the_disk(db: Path, state: str) -> None:
    (db.parent / "quiet.py").write_text("async def connect(services): ...")
    if state == "with a log":
        killed = "import sqlite3, os, sys; conn = sqlite3.connect(sys.argv[1])\n"
        killed += "conn.execute('INSERT INTO nudges (account) VALUES (1)')\n"
        killed += "conn.commit(); os._exit(0)"
        subprocess.run([sys.executable, "-c", killed, str(db)], check=True)
        assert db.with_name("books.db-wal").stat().st_size > 0
    before = on_disk(db.parent)
    command = [sys.executable, "-m", "settled", "check", "--no-connector", "--engine"]
    command += ["quiet:connect", "--db", str(db)]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    if state == "held":
        with held(db):
            before = on_disk(db.parent)
            subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
            assert on_disk(db.parent) == before
    else:
        subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
        assert on_disk(db.parent) == before


def test_a_log_is_read(db: Path) -> None:
    killed = "import sqlite3, os, sys; conn = sqlite3.connect(sys.argv[1])\n"
    killed += "conn.execute(\"UPDATE accounts SET queued = '7'\"); conn.commit(); os._exit(0)"
    subprocess.run([sys.executable, "-c", killed, str(db)], check=True)
    assert check(*with_db(db), code=1)["books"][0] == "FAIL"


def test_who_holds_the_database_is_told(db: Path) -> None:
    with held(db):
        assert check(*with_db(db))["daemon"] == ("OK", f"runs, pid {os.getpid()}")


def test_a_wrong_setting_fails_alone(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = check(*with_db(db, "--listen", "nowhere"), code=1)
    assert list(found) == ["settings"]
    assert "--listen" in found["settings"][1]
    monkeypatch.setenv("SETTLED_CONFIG", "none.toml")
    assert "none.toml" in check(code=1)["settings"][1]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "give --engine"),
        (["--engine", "no_such_module:connect"], "there is no module no_such_module"),
        (["--engine", "loopback", "-o", "asset_scale=x"], "asset_scale"),
        (["--engine", "loopback", "-o", "wings=2"], "wings"),
    ],
)
def test_an_engine_that_cannot_run_fails(db: Path, args: list[str], said: str) -> None:
    status, what = check("--db", str(db), *args, code=1)["engine"]
    assert status == "FAIL"
    assert said in what


def test_a_secret_that_everybody_can_read_is_told_of(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
from dataclasses import dataclass
from settled import option
@dataclass
class Options:
    key: str = option(secret=True)
def create_engine(options: Options):
    return lambda services: None
"""
    (db.parent / "keyed_engine.py").write_text(code)
    monkeypatch.chdir(db.parent)
    key = tmp_path / "key"
    key.write_text("sekret")
    args = ("--db", str(db), "--engine", "keyed_engine:create_engine", "-o", f"key_file={key}")
    for mode, status in ((0o600, "OK"), (0o640, "OK"), (0o644, "WARN")):
        key.chmod(mode)
        found = check(*args, "--listen", "127.0.0.1:0")["engine"]
        assert found[0] == status
        assert (str(key) in found[1]) == (status == "WARN")
        assert "sekret" not in found[1]


def test_an_engine_whose_code_fails_is_told_of(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (db.parent / "broken_engine.py").write_text("raise RuntimeError('no wings')")
    monkeypatch.syspath_prepend(db.parent)
    found = check("--db", str(db), "--engine", "broken_engine:connect", code=1)
    assert "no wings" in found["engine"][1]
    assert found["books"][0] == "OK", "the others are checked all the same"


@pytest.mark.parametrize(
    ("listen", "status"),
    [("127.0.0.1:1", "OK"), ("[::1]:1", "OK"), ("localhost:1", "OK"), ("0.0.0.0:1", "WARN")],
)
def test_to_be_reachable_from_elsewhere_is_a_warning(db: Path, listen: str, status: str) -> None:
    with held(db):  # the port is the holder's
        assert check(*with_db(db, "--listen", listen))["listen"][0] == status


def test_a_port_that_another_program_holds_fails_unless_a_daemon_is_there(db: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = with_db(db, "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
        status, what = check(*options, code=1)["listen"]
        assert status == "FAIL"
        assert "the port is in use" in what
        with held(db):
            assert check(*options)["listen"][0] == "OK"


def test_who_may_not_read_the_lock_cannot_tell_whether_a_daemon_runs(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def closed(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith(".lock"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    with held(db):
        monkeypatch.setattr(os, "open", closed)
        status, what = check(*with_db(db))["daemon"]
        monkeypatch.undo()
    assert status == "WARN"
    assert f"{db}.lock cannot be read" in what


def certificate(directory: Path, days: float) -> tuple[str, ...]:
    """Write a certificate that expires in so many days; return the options that name it."""
    issued = trustme.CA().issue_cert(
        "localhost", not_after=datetime.now(UTC) + timedelta(days=days)
    )
    issued.private_key_pem.write_to_path(directory / "key.pem")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(directory / "cert.pem", append=True)
    return ("--certfile", str(directory / "cert.pem"), "--keyfile", str(directory / "key.pem"))


@pytest.mark.parametrize(
    ("days", "status", "said"),
    [(100, "OK", "until 20"), (13, "WARN", "expires at 20"), (-1, "FAIL", "expired: renew it")],
)
def test_a_certificate_is_good_until_it_expires(
    db: Path, days: float, status: str, said: str
) -> None:
    files = certificate(db.parent, days)
    found = check(*with_db(db, *files), code=int(status == "FAIL"))["tls"]
    assert found[0] == status
    assert said in found[1]


def test_a_certificate_and_a_key_must_belong_together(db: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    certificate(other, 100)
    files = certificate(db.parent, 100)
    (other / "key.pem").replace(db.parent / "key.pem")
    assert "belong together" in check(*with_db(db, *files), code=1)["tls"][1]
    (db.parent / "key.pem").unlink()
    assert "cannot read" in check(*with_db(db, *files), code=1)["tls"][1]


def test_what_would_be_a_first_start_is_a_warning(tmp_path: Path) -> None:
    found = check(*with_db(tmp_path / "new.db"))
    assert found["database"][0] == "WARN"
    assert "books" not in found
    assert list(tmp_path.iterdir()) == []
    assert check(*with_db(tmp_path / "no" / "new.db"), code=1)["database"][0] == "FAIL"


@pytest.mark.parametrize(
    ("sql", "status", "said"),
    [
        ("PRAGMA application_id = 1", "FAIL", "is not a settled database"),
        (
            "UPDATE _sqlite_migrations SET name = '9' WHERE id = 2",
            "FAIL",
            "newer settled (it has 9)",
        ),
        ("DELETE FROM _sqlite_migrations WHERE id = 2", "WARN", "the next start upgrades it"),
    ],
)
def test_a_database_of_another_version_is_told(db: Path, sql: str, status: str, said: str) -> None:
    with closing(sqlite3.connect(db)) as conn, conn:
        conn.execute(sql)
    found = check(*with_db(db), code=int(status == "FAIL"))["database"]
    assert found[0] == status
    assert said in found[1]


def test_a_damaged_database_fails(db: Path) -> None:
    content = bytearray(db.read_bytes())
    content[4096 * 3 : 4096 * 12] = b"\xff" * 4096 * 9
    db.write_bytes(content)
    status, what = check(*with_db(db), code=1)["database"]
    assert status == "FAIL"
    assert "is damaged" in what
    db.write_bytes(b"no database at all, but text" * 100)
    assert check(*with_db(db), code=1)["database"][0] == "FAIL"


def test_books_that_are_off_fail(db: Path) -> None:
    with closing(sqlite3.connect(db)) as conn, conn:
        conn.execute("UPDATE accounts SET settled = '7'")
    status, what = check(*with_db(db), code=1)["books"]
    assert status == "FAIL"
    assert "alice, settled" in what
    assert "`settled audit`" in what


def test_a_restored_backup_is_a_warning(db: Path) -> None:
    cli(db, "backup", "copy.db")
    status, what = check(*with_db(db.with_name("copy.db")))["restored"]
    assert status == "WARN"
    assert "`settled release`" in what


@pytest.mark.parametrize(
    ("status", "finding"),
    [
        (404, "OK"),
        (405, "OK"),
        (400, "OK"),
        (200, "WARN"),
        (302, "WARN"),
        (401, "WARN"),
        (501, "WARN"),
    ],
)
def test_what_does_not_answer_like_a_connector_is_a_warning(
    db: Path, status: int, finding: str
) -> None:
    with answering(status) as url:
        found = check(*with_db(db, "--connector-url", url), connector=True)["connector"]
    assert found[0] == finding
    assert f"status {status}" in found[1]


def test_a_connector_that_is_not_there_fails(db: Path) -> None:
    options = with_db(db, "--connector-url", "http://127.0.0.1:1")
    status, what = check(*options, connector=True, code=1)["connector"]
    assert status == "FAIL"
    assert "http://127.0.0.1:1" in what
    assert "connector" not in check(*options)


@pytest.mark.parametrize(
    ("free_mib", "status"), [(50, "FAIL"), (65, "WARN"), (639, "WARN"), (700, "OK")]
)
def test_little_room_on_the_disk_is_told(
    db: Path, monkeypatch: pytest.MonkeyPatch, free_mib: int, status: str
) -> None:
    real = os.statvfs(db.parent)
    fields = list(real)
    fields[1], fields[4] = 4096, free_mib * 256
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result(fields))
    assert check(*with_db(db), code=int(status == "FAIL"))["disk"][0] == status


def test_no_secret_is_told(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETTLED_CONNECTOR_URL", "http://me:hush@127.0.0.1:1")
    assert "hush" not in run(*with_db(db)).output
