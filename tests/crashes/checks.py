"""What must be true of the files after every crash, and at the end."""

import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path

from settled.store.sql.audit import audit
from tests.crashes import old_schema
from tests.crashes.scenarios import Scenario
from tests.crashes.world import PAYMENTS, Request, World
from tests.harness import sum_exactly


def check_crashed(scenario: Scenario, world: World) -> None:
    """Check what a crash has left: the file is whole, and nothing promised is missing."""
    for backup in world.directory.glob("*.backup"):
        with _looking_at(backup) as conn:
            assert _audited(conn) == [], backup
    if not world.db.exists() or not _has_tables(world.db):
        assert not world.acks.read(), "an acknowledged request is gone"
        return
    with _looking_at(world.db) as conn:
        assert _audited(conn) == []
        if scenario.backs_up and old_schema.check_migrated(conn):
            assert list(world.directory.glob("*.backup")), "migrated without a backup"
        kept = {key for (key,) in conn.execute("SELECT key FROM idempotency_keys")}
        assert acknowledged(world) <= kept
        requested = dict(conn.execute("SELECT id, requested FROM accounts"))
        asked = {request.key: request for request in scenario.requests}
        pruned = {request.key for request in scenario.pruned}
        recorded = [asked[key] for key in kept | pruned]
        assert {id: Decimal(amount) for id, amount in requested.items() if amount != "0"} == sums(
            recorded
        ), "a request has no effect, or more than one"


def check_end(scenario: Scenario, world: World) -> None:
    """Check the books of all sides when everything has come to rest."""
    check_answers(scenario, world)
    asked = sums(scenario.requests)
    with _looking_at(world.db) as conn:
        assert _audited(conn) == []
        kept = {key for (key,) in conn.execute("SELECT key FROM idempotency_keys")}
        assert kept == {r.key for r in scenario.requests} - {r.key for r in scenario.pruned}
        found = conn.execute(
            "SELECT id, requested, queued, settled, received, credited FROM accounts"
        )
        for account_id, *texts in found:
            requested, queued, settled, received, credited = map(Decimal, texts)
            assert requested == asked.get(account_id, 0)
            assert (settled, queued) == ((requested, 0) if scenario.pays else (0, requested))
            if scenario.receives:
                assert received == _received().get(account_id, 0)
            assert credited == (received if scenario.delivers else 0)
    assert world.paid() == (asked if scenario.pays else {})
    assert world.credited() == (_received() if scenario.delivers else {})
    if scenario.backs_up:
        assert list(world.directory.glob("*.backup"))
        for left_over in ("*.part*", ".*.unfinished*"):
            assert not list(world.directory.glob(left_over))


def check_answers(scenario: Scenario, world: World) -> None:
    """Check that every request was answered, each time with the same bytes."""
    answers: dict[str, set[tuple[str, str]]] = {}
    for ack in world.acks.read():
        answers.setdefault(ack["key"], set()).add((ack["status"], ack["body"]))
    for request in scenario.requests:
        if request not in scenario.pruned:
            assert answers[request.key] == {("201", request.body.decode())}, request.key


def acknowledged(world: World) -> set[str]:
    """Return the keys that were answered with 201; nothing else was answered."""
    statuses = Counter(ack["status"] for ack in world.acks.read())
    assert set(statuses) <= {"201"}, statuses
    return {ack["key"] for ack in world.acks.read()}


def sums(requests: Iterable[Request]) -> dict[str, Decimal]:
    """Return what is asked for, by account."""
    amounts: dict[str, list[Decimal]] = {}
    for request in requests:
        amounts.setdefault(request.account_id, []).append(request.quantity.value)
    return {account_id: sum_exactly(parts) for account_id, parts in amounts.items()}


def _received() -> dict[str, Decimal]:
    return {
        account_id: sum_exactly(p.amount for p in PAYMENTS if p.account_id == account_id)
        for account_id in {p.account_id for p in PAYMENTS}
    }


@contextmanager
def _looking_at(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a copy of the database: to look must not change what the next start finds."""
    looked_at = path.parent / "looked-at"
    shutil.rmtree(looked_at, ignore_errors=True)
    looked_at.mkdir()
    for name in (path.name, f"{path.name}-wal", f"{path.name}-journal"):
        if (path.parent / name).exists():
            shutil.copy(path.parent / name, looked_at)
    with closing(sqlite3.connect(looked_at / path.name, isolation_level=None)) as conn:
        yield conn
    shutil.rmtree(looked_at)


def _has_tables(path: Path) -> bool:
    with _looking_at(path) as conn:
        found = conn.execute("SELECT 1 FROM sqlite_schema WHERE name = 'accounts'").fetchone()
    return found is not None


def _audited(conn: sqlite3.Connection) -> list[object]:
    return [*audit(conn, lambda _done, _total: None)]
