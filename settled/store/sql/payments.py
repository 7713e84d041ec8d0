"""Settlements of many accounts: begun together, and their outcomes recorded together.

Ordinary ones take a few statements however many they are: see ``settled.store.sql.requests`` for
why. Those that need more thought, each in its own way, are left to ``settled.store.sql.outgoing``.
"""

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from settled.amounts import payable, to_text
from settled.store.records import (
    Bucket,
    NextSettlement,
    Settled,
    Settlement,
    SettlementOutcome,
)
from settled.store.sql import outgoing
from settled.store.sql.arrays import as_json, select
from settled.store.sql.ledger import Tx
from settled.store.sql.moves import Moves
from settled.store.sql.restored import is_marked

_BUCKETS: Final[tuple[Bucket, ...]] = ("queued", "in_flight", "settled")

# The last two: whether a payment of its own is open, and whether one of a former life may be.
_LOOK: Final = (
    "SELECT json_group_array(json_array(a.number, a.id, a.queued, a.in_flight, a.settled, "
    "a.retry_ms, a.failures, a.closed_ms IS NULL AND a.hook IS NOT 'setup_account', "
    "EXISTS (SELECT 1 FROM settlements AS s "
    f"WHERE s.account = a.number AND s.state IN {outgoing.OPEN}), "
    "EXISTS (SELECT 1 FROM accounts AS f WHERE f.id = a.id AND f.number < a.number))) "
    "FROM json_each(?) AS asked CROSS JOIN accounts AS a ON a.number = asked.value"
)
_BEGIN: Final = (
    "INSERT INTO settlements (id, account, amount, state, failures, created_ms, updated_ms) "
    "SELECT value ->> 0, value ->> 1, value ->> 2, 'in_flight', value ->> 3, ?2, ?2 "
    "FROM json_each(?1)"
)
_NUMBERS: Final = (
    "SELECT json_group_array(json_array(s.id, s.number)) "
    "FROM json_each(?) AS asked CROSS JOIN settlements AS s ON s.id = asked.value ->> 0"
)
_IN_FLIGHT: Final = (
    "SELECT json_group_array(json_array(s.number, s.id, s.account, a.id, s.amount, s.created_ms, "
    "a.queued, a.in_flight, a.settled)) "
    "FROM json_each(?) AS asked CROSS JOIN settlements AS s ON s.id = asked.value "
    "CROSS JOIN accounts AS a ON a.number = s.account "
    "WHERE s.state = 'in_flight' AND a.closed_ms IS NULL"
)
_SETTLED: Final = (
    "UPDATE settlements SET state = 'settled', reason = NULL, settled = amount, failures = 0, "
    "retry_ms = 0, updated_ms = ? WHERE number IN (SELECT value FROM json_each(?))"
)


class Look(NamedTuple):
    """A look for what an account's queue needs; see ``OutgoingStore.next_settlement``."""

    account: int
    settlement_id: str
    asset_scale: int | None


class _Begun(NamedTuple):
    settlement_id: str
    account_id: str
    amount: Decimal
    failures: int
    left_ms: int | None  # see ``NextSettlement.delay_ms``


class Ended(NamedTuple):
    """What became of a settlement; see ``OutgoingStore.record_outcome``."""

    settlement_id: str
    outcome: SettlementOutcome


def next_settlements(tx: Tx, looks: Sequence[Look]) -> list[NextSettlement]:
    """See ``OutgoingStore.next_settlement``; what each look finds, in their order."""
    found = {
        row[0]: row for row in select(tx.conn, _LOOK, as_json([look.account for look in looks]))
    }
    backup = is_marked(tx.conn)
    moves = Moves(tx, _BUCKETS)
    begun: dict[int, _Begun] = {}
    results: list[NextSettlement | None] = []
    for look in looks:
        # Two looks at one account at once would begin the same.
        row = found.pop(look.account, None)
        if row is None or row[-2] or row[-1]:
            results.append(None)
            continue
        number, account_id, queued, in_flight, settled, retry_ms, failures, is_open, _, _ = row
        value = Decimal(queued)
        if not is_open or value <= 0 or retry_ms is None:
            results.append(NextSettlement())
            continue
        amount = payable(value, look.asset_scale)
        if backup or retry_ms > tx.now_ms or not amount:
            results.append(None)
            continue
        moves.add(number, (queued, in_flight, settled))
        moves.move(number, "queued", "in_flight", amount, look.settlement_id)
        left_ms = 0 if amount != value else None
        begun[number] = _Begun(look.settlement_id, account_id, amount, failures, left_ms)
        results.append(None)
    steps = _begin(tx, moves, begun)
    return [
        step or steps.pop(look.account, None) or outgoing.next_settlement(tx, *look)
        for look, step in zip(looks, results, strict=True)
    ]


def _begin(tx: Tx, moves: Moves, begun: dict[int, _Begun]) -> dict[int, NextSettlement]:
    """Write down what is begun; return the steps by the accounts' numbers."""
    if not begun:
        return {}
    rows = as_json(
        [
            (settlement_id, number, to_text(amount), failures)
            for number, (settlement_id, _, amount, failures, _) in begun.items()
        ]
    )
    tx.conn.execute(_BEGIN, (rows, tx.now_ms))
    # They rest until their outcome, or a request that must not be missed meanwhile.
    moves.write(also="waiting = NULL, retry_ms = NULL")
    numbers = dict(select(tx.conn, _NUMBERS, rows))
    return {
        number: NextSettlement(
            Settlement(
                number=numbers[settlement_id],
                id=settlement_id,
                account=number,
                account_id=account_id,
                amount=Decimal(to_text(amount)),  # as it will be read
                state="in_flight",
                failures=failures,
                created_ms=tx.now_ms,
                updated_ms=tx.now_ms,
            ),
            begun=True,
            delay_ms=left_ms,
        )
        for number, (settlement_id, account_id, amount, failures, left_ms) in begun.items()
    }


def record_outcomes(tx: Tx, ended: Sequence[Ended]) -> list[Settlement]:
    """See ``OutgoingStore.record_outcome``; the settlements as they are then, in their order."""
    words = Counter(settlement_id for settlement_id, _ in ended)
    paid = {
        settlement_id: to_text(outcome.amount)
        for settlement_id, outcome in ended
        # Of two words on one settlement the second is to meet what the first has done.
        if isinstance(outcome, Settled)
        and isinstance(outcome.amount, Decimal)
        and words[settlement_id] == 1
    }
    moves = Moves(tx, _BUCKETS)
    done: dict[str, Settlement] = {}
    for number, id_, account, account_id, text, created_ms, *balance in select(
        tx.conn, _IN_FLIGHT, as_json(list(paid))
    ):
        if paid[id_] == text:
            amount = Decimal(text)
            moves.add(account, balance)
            moves.move(account, "in_flight", "settled", amount, id_)
            done[id_] = Settlement(
                number=number,
                id=id_,
                account=account,
                account_id=account_id,
                amount=amount,
                state="settled",
                settled=amount,
                created_ms=created_ms,
                updated_ms=tx.now_ms,
            )
    if done:
        numbers = as_json([settlement.number for settlement in done.values()])
        tx.conn.execute(_SETTLED, (tx.now_ms, numbers))
        moves.write(also="failures = 0, waiting = NULL, retry_ms = 0")
    return [done.get(id_) or outgoing.record_outcome(tx, id_, how) for id_, how in ended]
