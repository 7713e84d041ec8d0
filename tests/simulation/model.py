"""The reference model: what the books of all sides must say, after every step and at the end."""

from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from itertools import pairwise

import trio

from settled import limits
from settled.amounts import EXACT, ZERO, floor, to_text
from settled.store.records import Difference
from settled.store.sql import audit
from settled.store.sql.incoming import CREDITS, credit_record
from settled.store.sql.ledger import COLUMNS, AccountRow
from tests.simulation.connector import Connector, Request
from tests.simulation.host import Host
from tests.simulation.ledger import Ledger
from tests.simulation.world import Violation


class Model:
    """Knows the truth, which no host does, and compares.

    Args:
        ledger: what was paid.
        connectors: by host, what was asked for and what was credited.
    """

    def __init__(self, ledger: Ledger, connectors: dict[str, Connector]) -> None:
        self._ledger = ledger
        self._connectors = connectors
        self._handed_out_s: dict[str, float] = {}
        self.checks = 0

    # --- after every commit ---

    def check(self, host: Host) -> None:
        """Compare the books of one host, as they are on its disk now, with the truth.

        Raises:
            Violation: when a promise is broken.
        """
        self.checks += 1
        connector = self._connectors[host.name]
        for account_id, rows in _by_id(_rows(host)).items():
            for row in rows:
                _conserved(row)
            requests = connector.requests.values()
            side, where = (host.name, account_id), f"{host.name}, account {account_id}"
            chain = [
                ("acknowledged", _sum_of(requests, account_id, acknowledged=True)),
                ("requested", _total(rows, "requested")),
                ("asked for", _sum_of(requests, account_id, acknowledged=False)),
            ]
            _ascending(where, chain)
            paid = ("paid", self._ledger.paid[side])
            _ascending(where, [("settled", _total(rows, "settled")), paid])
            chain = [
                ("credited", _total(rows, "credited")),
                ("taken by the connector", connector.credited[account_id]),
                ("received", _total(rows, "received")),
                ("paid to it", self._ledger.received[side]),
            ]
            _ascending(where, chain)
        self._check_parked(host)

    def _check_parked(self, host: Host) -> None:
        """Nothing is parked that could have been resolved without the operator."""
        assert host.store is not None
        conn = host.store.reader
        if host.ability.finds:
            (parked,) = conn.execute(
                "SELECT count(*) FROM settlements WHERE state = 'parked'"
            ).fetchone()
            _require(not parked, f"{host.name}: a settlement is parked though it can be found")
        now_s = trio.current_time()
        for row in conn.execute(f"{CREDITS} WHERE c.state <> 'credited'"):
            credit = credit_record(row)
            if credit.ambiguous_ms is None:
                self._handed_out_s.pop(credit.id, None)
                continue
            since_s = self._handed_out_s.setdefault(credit.id, now_s)
            if credit.state == "parked" and not host.clock_was_set:
                age_ms = (now_s - since_s) * 1000
                _require(
                    age_ms >= limits.AMBIGUOUS_AGE_MAX_MS - 1000,
                    f"{host.name}: credit {credit.id} is parked after {age_ms:.0f} ms",
                )

    # --- at each start, and at the end ---

    def check_whole(self, host: Host) -> None:
        """As ``check``, and every journal entry, every key and the file itself.

        Raises:
            Violation: when a promise is broken.
        """
        self.check(host)
        assert host.store is not None
        conn = host.store.reader
        differences: list[Difference] = audit.audit(conn, lambda _done, _total: None)
        _require(not differences, f"{host.name}: the audit finds {differences}")
        recorded = {
            key: Decimal(amount)
            for key, amount in conn.execute(
                "SELECT ref, amount FROM journal WHERE source = 'requested'"
            )
        }
        (entries,) = conn.execute(
            "SELECT count(*) FROM journal WHERE source = 'requested'"
        ).fetchone()
        _require(entries == len(recorded), f"{host.name}: a key took effect twice")
        for key, request in self._connectors[host.name].requests.items():
            if request.acknowledged:
                _require(key in recorded, f"{host.name}: acknowledged request {key} is lost")
            if key in recorded:
                _require(
                    recorded[key] == request.quantity.value,
                    f"{host.name}: request {key} was recorded with {recorded[key]}",
                )

    def unfinished(self, hosts: Iterable[Host]) -> str | None:
        """Return what still waits though nothing goes wrong any more, ``None`` when all rests."""
        if self._ledger.pending:
            return f"{self._ledger.pending} payments on the ledger"
        for host in hosts:
            if host.store is None or host.operations is None:
                return f"{host.name} is down"
            for row in _rows(host):
                scale = host.ability.asset_scale
                owed = floor(max(row.balance["queued"], ZERO), scale)
                waiting = {
                    "queued": ZERO if row.closed_ms is not None else owed,
                    "in flight": row.balance["in_flight"],
                    "unknown": row.balance["unknown"],
                    "undelivered": row.balance["undelivered"],
                    "parked": row.balance["parked"],
                }
                for bucket, amount in waiting.items():
                    if amount:
                        return (
                            f"{host.name}: {to_text(amount)} of {row.id} {bucket} ({row.waiting})"
                        )
            if (missing := self._missing(host)) is not None:
                return missing
        return None

    def _missing(self, host: Host) -> str | None:
        for account_id, rows in _by_id(_rows(host)).items():
            side = (host.name, account_id)
            connector = self._connectors[host.name]
            received = _total(rows, "received")
            for what, true, found in (
                ("received", self._ledger.received[side], received),
                ("taken by the connector", received, connector.credited[account_id]),
                ("settled", self._ledger.paid[side], _total(rows, "settled")),
            ):
                if true != found:
                    return f"{host.name}: {account_id} has {found} {what} instead of {true}"
        return None


def _rows(host: Host) -> list[AccountRow]:
    assert host.store is not None
    rows = host.store.reader.execute(f"SELECT {COLUMNS} FROM accounts ORDER BY number")
    return [AccountRow(row) for row in rows]


def _by_id(rows: Iterable[AccountRow]) -> dict[str, list[AccountRow]]:
    lives: defaultdict[str, list[AccountRow]] = defaultdict(list)
    for row in rows:
        lives[row.id].append(row)
    return lives


def _total(rows: Iterable[AccountRow], bucket: str) -> Decimal:
    return _sum(row.balance[bucket] for row in rows)  # type: ignore[index]


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    total = ZERO
    for amount in amounts:
        total = EXACT.add(total, amount)
    return total


def _sum_of(requests: Iterable[Request], account_id: str, *, acknowledged: bool) -> Decimal:
    return _sum(
        request.quantity.value
        for request in requests
        if request.account_id == account_id and (request.acknowledged or not acknowledged)
    )


def _conserved(row: AccountRow) -> None:
    balance = row.balance
    outgoing = _sum(balance[b] for b in ("queued", "in_flight", "unknown", "settled"))
    _require(balance["requested"] == outgoing, f"{row.id}: {balance} is not conserved")
    incoming = _sum(balance[b] for b in ("undelivered", "parked", "credited"))
    _require(balance["received"] == incoming, f"{row.id}: {balance} is not conserved")


def _ascending(where: str, amounts: list[tuple[str, Decimal]]) -> None:
    """Require that no amount is more than the next."""
    for (small, less), (large, more) in pairwise(amounts):
        _require(less <= more, f"{where}: {to_text(less)} {small}, but {to_text(more)} {large}")


def _require(true: bool, message: str) -> None:
    if not true:
        raise Violation(message)
