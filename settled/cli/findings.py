"""What ``settled check`` looks at: each check is a function that returns a finding, or raises."""

import os
import sqlite3
import ssl
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, TypeVar

import httpx2
from sqlite_utils import Database

from settled import limits
from settled.cli.records import iso
from settled.config import Config, Settings
from settled.engine.loading import load
from settled.errors import ConfigError, SettledError
from settled.http.listening import bind, tls_context
from settled.setting_values import conceal_credentials
from settled.store import faults, file, lock, looking
from settled.store.soundness import refuse_loss
from settled.store.sql.audit import audit
from settled.store.sql.restored import held
from settled.store.sql.schema import APPLICATION_ID, MIGRATIONS
from settled.text import describe_error, one_line

T = TypeVar("T")

_EXPIRES_SOON_S: Final = 14 * 24 * 3600
_ASKED: Final = "/accounts/settled-check/settlements"
_OF_SETTLEMENTS: Final = (400, 404, 405)
_MIB: Final = 1024 * 1024

Status = Literal["OK", "WARN", "FAIL"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        status: ``FAIL``: the daemon cannot do its work so; ``WARN``: it can, but look at it.
        check: the name of the check.
        what: what was found, and what to do.
    """

    status: Status
    check: str
    what: str


def failed(check: str, error: Exception) -> Finding:
    """Return the finding of a check that ended with an error."""
    if isinstance(error, SettledError):
        return Finding("FAIL", check, one_line(error))
    if isinstance(error, OSError) and error.filename:
        return Finding("FAIL", check, f"{one_line(error.filename)}: {error.strerror}")
    return Finding("FAIL", check, describe_error(error))


def settings(config: Config) -> Finding:
    """Where did the settings come from?"""
    sources = sorted({*config.sources.values(), *(v.source for v in config.options.values())})
    return Finding("OK", "settings", f"from {', '.join(map(one_line, sources)) or 'defaults'}")


def engine(config: Config) -> Finding:
    """Can the engine be loaded, and are its options what it takes? It is not connected."""
    name = config.settings.engine
    if name is None:
        raise ConfigError("none: give --engine MODULE:NAME, or the name of an installed one")
    sys.dont_write_bytecode = True  # a check leaves nothing behind, not even of the engine's code
    target = load(name)
    target.make(config.options)
    exposed = target.exposed(config.options)
    if exposed:
        names = ", ".join(map(one_line, exposed))
        what = f"everybody on this machine can read the secret in {names}: chmod 600"
        return Finding("WARN", "engine", what)
    return Finding("OK", "engine", f"{one_line(name)}, its options are right")


def listen(settings: Settings) -> Finding:
    """Is the port free for a daemon, unless one has it already, and can strangers reach it?"""
    if _holder(settings.db) is None:
        bind(settings.listen).close()
    host = settings.listen.rpartition(":")[0].strip("[]")
    if host in ("localhost", "::1") or host.startswith("127."):
        return Finding("OK", "listen", f"{settings.listen}, this machine only")
    return Finding(
        "WARN",
        "listen",
        f"{settings.listen} may be reached from other machines, and whoever reaches it can ask for "
        f"settlements: keep it on a network of its own",
    )


def tls(settings: Settings) -> Finding:
    """Can the certificate be served, and for how long?"""
    certfile, keyfile = settings.certfile, settings.keyfile
    files = [None if path is None else str(path) for path in (certfile, keyfile)]
    context = tls_context(*files)
    if context is None or certfile is None:
        return Finding("OK", "tls", "off: plain HTTP")
    try:
        end_s = _expiry_s(context, certfile)
    except ssl.SSLCertVerificationError as error:
        return Finding("FAIL", "tls", f"{certfile}: {error.verify_message}: renew it")
    end = datetime.fromtimestamp(end_s, UTC)
    if end_s - time.time() < _EXPIRES_SOON_S:
        return Finding("WARN", "tls", f"{certfile} expires at {end:%Y-%m-%d %H:%M} UTC: renew it")
    return Finding("OK", "tls", f"{certfile}, until {end:%Y-%m-%d}")


def _expiry_s(server: ssl.SSLContext, certfile: Path) -> int:
    """Return when the certificate expires, as a client that trusts it is told."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(certfile)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is trusted
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        for side in (ours, theirs):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    certificate = ours.getpeercert() or {}
    return int(ssl.cert_time_to_seconds(str(certificate["notAfter"])))


def database(settings: Settings) -> Finding:
    """Is there a database that this program can work on?"""
    db = settings.db
    if not db.exists() or db.is_dir() or not db.stat().st_size:
        file.check(db, create=True)
        return Finding("WARN", "database", f"none at {one_line(db)} yet: `settled run` makes it")
    if (why := faults.not_allowed(db)) is not None:
        return Finding("FAIL", "database", one_line(why))
    refuse_loss(db)
    application, tables, names = _look(db, _schema)
    if tables and application != APPLICATION_ID:
        raise ConfigError(f"{one_line(db)} is not a settled database: give another --db")
    known = {migration.name for migration in MIGRATIONS.pending(Database(memory=True))}
    if newer := sorted(names - known):
        raise ConfigError(
            f"{one_line(db)} was written by a newer settled (it has {', '.join(newer)}): upgrade "
            f"this one"
        )
    size = f"{one_line(db)}, {_mib(db.stat().st_size)}"
    if known - names:
        return Finding(
            "WARN", "database", f"{size}, of an older settled: the next start upgrades it"
        )
    return Finding("OK", "database", size)


def _look(db: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    try:
        return looking.look(db, read)
    except faults.UNREADABLE as error:
        raise faults.unusable(db, error) from error


def _schema(conn: sqlite3.Connection) -> tuple[int, int, set[str]]:
    (application,) = conn.execute("PRAGMA application_id").fetchone()
    (tables,) = conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    applied = MIGRATIONS.applied(Database(conn, execute_plugins=False))
    return application, tables, {migration.name for migration in applied}


def books(settings: Settings, progress: Callable[[int, int], None]) -> Finding:
    """Is the file sound, and do all balances agree with the journal?"""
    found = _look(settings.db, lambda conn: audit(conn, progress))
    if found:
        return Finding(
            "FAIL",
            "books",
            f"{len(found)} differences, the first: {found[0].subject}, {found[0].what}; keep a "
            f"copy of the file, let nothing pay from it, and see `settled audit`",
        )
    return Finding("OK", "books", "all balances agree with the journal, and the file is sound")


def restored(settings: Settings) -> Finding:
    """Is it a restored backup that waits for the operator?"""
    holding = _look(settings.db, held)
    if holding is None:
        return Finding("OK", "restored", "no: nothing is held")
    count = len(holding.accounts)
    waiting = "1 account waits" if count == 1 else f"{count} accounts wait"
    return Finding(
        "WARN",
        "restored",
        f"a backup of {iso(holding.taken_ms)}; nothing that is queued is paid, which {waiting} "
        f"for: see `settled release`",
    )


def daemon(settings: Settings) -> Finding:
    """Who holds the database?"""
    holder = _holder(settings.db)
    if isinstance(holder, str):
        return Finding("WARN", "daemon", f"unknown whether one runs: {one_line(holder)}")
    return Finding("OK", "daemon", "none runs" if holder is None else f"runs, pid {holder}")


def _holder(db: Path) -> int | str | None:
    """Return the pid of who holds the database, ``None`` if nobody, or why that cannot be told."""
    path = lock.lock_path(db)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{path} cannot be read ({error.strerror}); run this as the daemon's user"
    return lock.holder_pid(db)


def connector(settings: Settings) -> Finding:
    """Does the connector answer, and like one that takes settlements?

    The address that it takes them at is asked, in a way that changes nothing there. A connector
    knows it: it says that this is no way to ask, or that there is no such account.
    """
    url = conceal_credentials(settings.connector_url)
    try:
        with (
            httpx2.Client(
                timeout=limits.CONNECTOR_CONNECT_TIMEOUT_S, trust_env=False, follow_redirects=False
            ) as client,
            client.stream("GET", f"{settings.connector_url}{_ASKED}") as response,
        ):
            status = response.status_code
    except httpx2.HTTPError as error:
        return Finding(
            "FAIL",
            "connector",
            f"no answer from {url}: {describe_error(error)}; start it, or correct connector_url",
        )
    if status not in _OF_SETTLEMENTS:
        return Finding(
            "WARN",
            "connector",
            f"{url} answers, but to GET {_ASKED} with status {status}, not like a connector that "
            f"takes settlements: see whether connector_url is right",
        )
    return Finding("OK", "connector", f"{url} answers (status {status})")


def disk(settings: Settings) -> Finding:
    """Is there room to go on, and for a copy of the database?"""
    db = settings.db
    stats = os.statvfs(db.absolute().parent)
    free_bytes = stats.f_bavail * stats.f_frsize
    free = f"{_mib(free_bytes)} free at {one_line(db.absolute().parent)}"
    size_bytes = db.stat().st_size if db.exists() else 0
    reserve_bytes = settings.disk_reserve_bytes
    if free_bytes < reserve_bytes:
        what = f"of {_mib(reserve_bytes)} to keep: free some, new work is refused until then"
        return Finding("FAIL", "disk", f"{free}, {what}")
    if free_bytes < 10 * reserve_bytes + size_bytes:
        return Finding("WARN", "disk", f"{free}: free some before it is full")
    return Finding("OK", "disk", free)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / _MIB:,.1f} MiB"
