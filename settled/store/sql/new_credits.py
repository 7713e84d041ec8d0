"""The usual of credits: they are new, and the connector acknowledges them.

One statement adds all the new credits of a transaction, and one records all that are acknowledged:
see ``settled.store.sql.requests`` for why, and for how that can be right. What is not usual is left
to ``settled.store.sql.deliveries``.
"""

import sqlite3
from collections.abc import Sequence, Set
from decimal import Decimal
from typing import Final

from settled.amounts import to_text
from settled.errors import AccountNotFound, SettledError
from settled.store.clock import Mark
from settled.store.protocol_incoming import CreditSent, NewCredit
from settled.store.records import Bucket, Credit, Delivered
from settled.store.sql import deliveries, restored, steady
from settled.store.sql.arrays import as_json, select
from settled.store.sql.ledger import Tx, shift
from settled.store.sql.remembered import Remembered

_LOOK: Final = (
    "SELECT json_array((SELECT ifnull(max(number), 0) FROM credits), "
    "(SELECT json_array(steady_ms, wall_ms, boot, uptime_ms) FROM clock), "
    "(SELECT json_group_array(json_array(a.id, a.number, a.received, a.undelivered, a.credited)) "
    "FROM json_each(?) AS asked CROSS JOIN accounts AS a "
    "ON a.number = (SELECT max(number) FROM accounts WHERE id = asked.value)))"
)

# An account's row: its number, its balances in both buckets, what they were, and its id. Of a
# credit's the number, the id, the account and the amount are looked at, as they stand in
# ``deliveries.row_of``.
_MOVE: Final = """
    UPDATE accounts SET {0} = is_now.value ->> 1, {1} = is_now.value ->> 2
        FROM json_each(NEW.accounts) AS is_now
        WHERE number = is_now.value ->> 0 AND accounts.id = is_now.value ->> 5
        AND {0} = is_now.value ->> 3 AND {1} = is_now.value ->> 4 {2};
    SELECT RAISE(ABORT, 'an account is not as remembered')
        WHERE changes() <> json_array_length(NEW.accounts);
    INSERT INTO journal (at_ms, account, source, target, amount, ref)
        SELECT NEW.now_ms, value ->> 2, '{0}', '{1}', value ->> 5, value ->> 1
        FROM json_each(NEW.credits);
"""
_LATEST: Final = (
    "AND NOT EXISTS (SELECT 1 FROM accounts AS a WHERE a.id = accounts.id "
    "AND a.number > accounts.number)"
)
_PREPARE: Final = (
    "CREATE TEMP VIEW new_credits AS SELECT NULL AS credits, NULL AS accounts, NULL AS clock, "
    "NULL AS now_ms",
    f"""
    CREATE TEMP TRIGGER new_credits_insert INSTEAD OF INSERT ON new_credits BEGIN
        SELECT RAISE(ABORT, 'it is a restored backup')
            FROM counters WHERE name = '{restored.TAKEN}';
        UPDATE clock SET steady_ms = NEW.clock ->> 0, wall_ms = NEW.clock ->> 1,
            boot = NEW.clock ->> 2, uptime_ms = NEW.clock ->> 3
            WHERE steady_ms = NEW.clock ->> 4 AND wall_ms = NEW.clock ->> 5
            AND boot = NEW.clock ->> 6 AND uptime_ms = NEW.clock ->> 7;
        SELECT RAISE(ABORT, 'the clock is not as remembered') WHERE changes() <> 1;
        INSERT INTO credits (number, id, account, account_id, settlement_id, amount, state,
            attempts, retry_ms, ambiguous_ms, ambiguous_steady_ms, created_ms, updated_ms)
            SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5,
                'undelivered', value ->> 6, value ->> 7, iif(value ->> 6, NEW.now_ms, NULL),
                iif(value ->> 6, NEW.clock ->> 0, NULL), NEW.now_ms, NEW.now_ms
            FROM json_each(NEW.credits);
        {_MOVE.format("received", "undelivered", _LATEST)}
    END
    """,
    "CREATE TEMP VIEW acknowledged AS SELECT NULL AS credits, NULL AS accounts, NULL AS now_ms",
    f"""
    CREATE TEMP TRIGGER acknowledged_insert INSTEAD OF INSERT ON acknowledged BEGIN
        UPDATE credits SET state = 'credited', reason = NULL, updated_ms = NEW.now_ms
            FROM json_each(NEW.credits) AS sent
            WHERE number = sent.value ->> 0 AND +credits.id = sent.value ->> 1
            AND +account = sent.value ->> 2 AND amount = sent.value ->> 5
            AND +state = 'undelivered';
        SELECT RAISE(ABORT, 'a credit is not to be credited')
            WHERE changes() <> json_array_length(NEW.credits);
        {_MOVE.format("undelivered", "credited", "")}
    END
    """,
)
_ADD: Final = "INSERT INTO new_credits VALUES (?, ?, ?, ?)"
_ACKNOWLEDGE: Final = "INSERT INTO acknowledged VALUES (?, ?, ?)"

_BUCKETS: Final[tuple[Bucket, ...]] = ("received", "undelivered", "credited")


class Credits:
    """Adds and records the credits of one connection.

    Args:
        conn: the connection.
        remembered: what is remembered on it.
    """

    def __init__(self, conn: sqlite3.Connection, remembered: Remembered) -> None:
        for statement in _PREPARE:
            conn.execute(statement)
        self._remembered = remembered
        self._numbers: dict[str, int] = remembered.table()  # of accounts, by id
        self._balances: dict[int, dict[Bucket, str]] = remembered.table()
        self._latest: dict[str, int] = remembered.table()  # the number of the latest credit
        self._clock: dict[str, Mark] = remembered.table()

    def add(self, tx: Tx, news: Sequence[NewCredit]) -> Sequence[Credit | SettledError | None]:
        """See ``settled.store.sql.deliveries.add_credits``."""
        self._remembered.check()
        results = self._add_new(tx, news)
        if results is None:
            self._remembered.forget()
            return deliveries.add_credits(tx, news)
        self._remembered.written()
        return results

    def record(self, tx: Tx, ended: Sequence[CreditSent]) -> Sequence[None]:
        """See ``settled.store.sql.deliveries.record_deliveries``."""
        self._remembered.check()
        if self._acknowledge(tx, ended):
            self._remembered.written()
            return [None for _ in ended]
        self._remembered.forget()
        return deliveries.record_deliveries(tx, ended)

    def _add_new(
        self, tx: Tx, news: Sequence[NewCredit]
    ) -> list[Credit | SettledError | None] | None:
        """Add the credits, if there is nothing special about them; else write nothing."""
        self._look(tx.conn, {change.account_id for change, _ in news})
        was = self._clock.get("")
        if was is None:
            return None
        clock, number = was.advanced(tx.now_ms, tx.uptime), self._latest[""]
        balances = _Balances(tx, deliveries.TO_ADD, self._balances)
        rows: list[tuple[object, ...]] = []
        results: list[Credit | SettledError | None] = []
        for change, hand_out in news:
            amount, account = deliveries.amount_of(change), self._numbers.get(change.account_id)
            if isinstance(amount, SettledError):
                results.append(amount)
                continue
            if account is None:
                results.append(AccountNotFound(change.account_id))
                continue
            number += 1
            credit = deliveries.new_credit(
                tx, change, number=number, account=account, amount=amount, hand_out=hand_out
            )
            balances.move(account, change.account_id, amount)
            rows.append(deliveries.row_of(credit))
            results.append(credit)
        if rows:
            clocks = as_json((*steady.row_of(clock), *steady.row_of(was)))
            if not balances.write(_ADD, rows, clocks):
                return None
            self._clock[""], self._latest[""] = clock, number
        return results

    def _look(self, conn: sqlite3.Connection, account_ids: Set[str]) -> None:
        """See to it that the accounts with these ids are remembered, if there are any."""
        self._remembered.make_room()
        missing = account_ids - self._numbers.keys()
        if not missing:
            return
        self._latest[""], clock, found = select(conn, _LOOK, as_json(sorted(missing)))
        if clock is not None:
            self._clock[""] = steady.mark_of(clock)
        for account_id, number, *amounts in found:
            self._numbers[account_id] = number
            self._balances[number] = dict(zip(_BUCKETS, amounts, strict=True))

    def _acknowledge(self, tx: Tx, ended: Sequence[CreditSent]) -> bool:
        """Record the outcomes, if they are all acknowledgements; else write nothing."""
        credits_ = {credit.number: credit for credit, _ in ended}
        if not all(isinstance(outcome, Delivered) for _, outcome in ended):
            return False
        if not all(credit.account in self._balances for credit in credits_.values()):
            self._look(tx.conn, {credit.account_id for credit in credits_.values()})
        balances = _Balances(tx, deliveries.TO_CREDIT, self._balances)
        rows: list[tuple[object, ...]] = []
        for credit in credits_.values():
            if credit.account not in self._balances:
                return False  # a former life of its id
            try:
                balances.move(credit.account, credit.account_id, credit.amount)
            except SettledError:
                return False  # it is credited already, or parked
            rows.append(deliveries.row_of(credit))
        return not rows or balances.write(_ACKNOWLEDGE, rows)


class _Balances:
    """Movements between two buckets, from balances that are remembered.

    Args:
        tx: the transaction.
        buckets: out of the first, into the second.
        remembered: the balances, by account.
    """

    def __init__(
        self, tx: Tx, buckets: tuple[Bucket, Bucket], remembered: dict[int, dict[Bucket, str]]
    ) -> None:
        self._tx = tx
        self._source, self._target = self._buckets = buckets
        self._remembered = remembered
        self._balances: dict[int, dict[Bucket, Decimal]] = {}
        self._ids: dict[int, str] = {}

    def move(self, account: int, account_id: str, amount: Decimal) -> None:
        """Move an amount; see ``settled.store.sql.ledger.shift``."""
        balance = self._balances.get(account)
        if balance is None:
            was = self._remembered[account]
            self._ids[account] = account_id
            balance = self._balances[account] = {
                self._source: Decimal(was[self._source]),
                self._target: Decimal(was[self._target]),
            }
        shift(balance, self._source, self._target, amount, f"account number {account}")

    def write(self, statement: str, rows: Sequence[object], *more: str) -> bool:
        """Write what they are about, and them; return whether all was as remembered."""
        now = {
            account: [to_text(balance[self._source]), to_text(balance[self._target])]
            for account, balance in self._balances.items()
        }
        changes = [
            (
                *(account, *is_now),
                *(self._remembered[account][b] for b in self._buckets),
                self._ids[account],
            )
            for account, is_now in now.items()
        ]
        parameters = (as_json(rows), as_json(changes), *more, self._tx.now_ms)
        try:
            self._tx.conn.execute(statement, parameters)
        except sqlite3.IntegrityError:
            return False
        for account, is_now in now.items():
            self._remembered[account].update(zip(self._buckets, is_now, strict=True))
            self._tx.touch(account)
        return True
