"""The schema, as migrations that are never edited once released.

Amounts are canonical decimal text (``settled.amounts.to_text``); times are milliseconds since 1970.
"""

from typing import Final

from sqlite_utils import Database, Migrations

# "stld", in the file's header: how a settled database is told from any other SQLite file.
APPLICATION_ID: Final = 0x73746C64

MIGRATIONS: Final = Migrations("settled")


def _amount(name: str, *, signed: bool = False) -> str:
    digits = f"ltrim({name}, '-')" if signed else name
    check = f"{digits} GLOB '[0-9]*' AND {digits} NOT GLOB '*[^0-9.]*'"
    return f"{name} TEXT NOT NULL DEFAULT '0' CHECK ({check})"


_FIRST: Final = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    # One row for each life of an account id. The balances repeat what the journal says.
    f"""
    CREATE TABLE accounts (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        {_amount("requested")},
        {_amount("queued", signed=True)},
        {_amount("in_flight")},
        {_amount("unknown")},
        {_amount("settled")},
        {_amount("received")},
        {_amount("undelivered")},
        {_amount("parked")},
        {_amount("credited")},
        waiting TEXT,
        retry_ms INTEGER,
        failures INTEGER NOT NULL DEFAULT 0,
        hook TEXT CHECK (hook IN ('setup_account', 'close_account')),
        hook_failures INTEGER NOT NULL DEFAULT 0,
        hook_retry_ms INTEGER NOT NULL DEFAULT 0,
        opened_ms INTEGER NOT NULL,
        closed_ms INTEGER
    ) STRICT
    """,
    "CREATE INDEX accounts_id ON accounts (id)",
    "CREATE UNIQUE INDEX accounts_open ON accounts (id) WHERE closed_ms IS NULL",
    "CREATE INDEX accounts_queued ON accounts (number) WHERE queued <> '0'",
    "CREATE INDEX accounts_hook ON accounts (number) WHERE hook IS NOT NULL",
    # Every movement of money between two buckets of an account, for ever.
    """
    CREATE TABLE journal (
        seq INTEGER PRIMARY KEY,
        at_ms INTEGER NOT NULL,
        account INTEGER NOT NULL REFERENCES accounts (number),
        source TEXT NOT NULL,
        target TEXT NOT NULL,
        amount TEXT NOT NULL,
        ref TEXT NOT NULL
    ) STRICT
    """,
    """
    CREATE TRIGGER journal_no_update BEFORE UPDATE ON journal
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END
    """,
    """
    CREATE TRIGGER journal_no_delete BEFORE DELETE ON journal
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END
    """,
    """
    CREATE TABLE idempotency_keys (
        account_id TEXT NOT NULL,
        key TEXT NOT NULL,
        account INTEGER NOT NULL,
        amount TEXT NOT NULL,
        scale INTEGER NOT NULL,
        tick INTEGER NOT NULL,
        PRIMARY KEY (account_id, key)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX idempotency_keys_tick ON idempotency_keys (tick)",
    f"""
    CREATE TABLE settlements (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        account INTEGER NOT NULL REFERENCES accounts (number),
        {_amount("amount")},
        state TEXT NOT NULL
            CHECK (state IN ('in_flight', 'unknown', 'parked', 'settled', 'not_sent')),
        {_amount("settled")},
        reason TEXT,
        failures INTEGER NOT NULL DEFAULT 0,
        retry_ms INTEGER NOT NULL DEFAULT 0,
        created_ms INTEGER NOT NULL,
        updated_ms INTEGER NOT NULL
    ) STRICT
    """,
    # One payment at a time per account, whatever the program does.
    """
    CREATE UNIQUE INDEX settlements_one_open ON settlements (account)
        WHERE state IN ('in_flight', 'unknown', 'parked')
    """,
    "CREATE INDEX settlements_account ON settlements (account)",
    "CREATE INDEX settlements_state ON settlements (state)",
    f"""
    CREATE TABLE credits (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        account INTEGER NOT NULL REFERENCES accounts (number),
        account_id TEXT NOT NULL,
        settlement_id TEXT NOT NULL,
        {_amount("amount")},
        state TEXT NOT NULL CHECK (state IN ('undelivered', 'credited', 'parked')),
        reason TEXT,
        attempts INTEGER NOT NULL DEFAULT 0,
        ambiguous_ms INTEGER,
        retry_ms INTEGER NOT NULL DEFAULT 0,
        created_ms INTEGER NOT NULL,
        updated_ms INTEGER NOT NULL,
        UNIQUE (account_id, settlement_id)
    ) STRICT
    """,
    "CREATE INDEX credits_undelivered ON credits (account, retry_ms) WHERE state = 'undelivered'",
    "CREATE INDEX credits_account ON credits (account)",
    "CREATE INDEX credits_state ON credits (state)",
    # account_id '' is the engine's own scope.
    """
    CREATE TABLE engine_state (
        account_id TEXT NOT NULL,
        key TEXT NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (account_id, key)
    ) STRICT, WITHOUT ROWID
    """,
    # What another process changed and the daemon has yet to look at.
    "CREATE TABLE nudges (number INTEGER PRIMARY KEY, account INTEGER NOT NULL) STRICT",
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "INSERT INTO counters VALUES ('key_tick', 0)",
)


# See ``settled.store.clock``. Its first reading is what the wall clock says then.
_STEADY_CLOCK: Final = (
    """
    CREATE TABLE clock (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        steady_ms INTEGER NOT NULL,
        wall_ms INTEGER NOT NULL,
        boot TEXT NOT NULL,
        uptime_ms INTEGER NOT NULL
    ) STRICT
    """,
    # When a delivery was first unclear, by the steady clock; ``ambiguous_ms`` says it for people.
    "ALTER TABLE credits ADD COLUMN ambiguous_steady_ms INTEGER",
    "UPDATE credits SET ambiguous_steady_ms = ambiguous_ms",
)


# New keys lie at the end of the table and of the index of ticks, whatever account they are of, so
# that only one page of one index is written for each. Purging takes them from the beginning.
_KEYS_IN_ORDER: Final = (
    "ALTER TABLE idempotency_keys RENAME TO idempotency_keys_by_account",
    "DROP INDEX idempotency_keys_tick",
    """
    CREATE TABLE idempotency_keys (
        number INTEGER PRIMARY KEY,
        account_id TEXT NOT NULL,
        key TEXT NOT NULL,
        account INTEGER NOT NULL,
        amount TEXT NOT NULL,
        scale INTEGER NOT NULL,
        tick INTEGER NOT NULL
    ) STRICT
    """,
    """
    INSERT INTO idempotency_keys (account_id, key, account, amount, scale, tick)
    SELECT account_id, key, account, amount, scale, tick FROM idempotency_keys_by_account
    ORDER BY tick
    """,
    "DROP TABLE idempotency_keys_by_account",
    "CREATE UNIQUE INDEX idempotency_keys_key ON idempotency_keys (account_id, key)",
    "CREATE INDEX idempotency_keys_tick ON idempotency_keys (tick)",
)


# A key that is used again goes to the end, so that keys are in the order of their ticks by number.
_KEYS_BY_NUMBER_ALONE: Final = ("DROP INDEX idempotency_keys_tick",)

# What has come to its end is nearly all there is: who looks for that needs no index, and who looks
# for the rest needs one of the rest.
_ENDED_WITHOUT_INDEX: Final = (
    "DROP INDEX credits_state",
    "CREATE INDEX credits_parked ON credits (number) WHERE state = 'parked'",
    "DROP INDEX settlements_state",
    "CREATE INDEX settlements_not_sent ON settlements (number) WHERE state = 'not_sent'",
)


@MIGRATIONS(name="0001_first")
def _first(db: Database) -> None:
    for statement in _FIRST:
        db.execute(statement)


@MIGRATIONS(name="0002_steady_clock")
def _steady_clock(db: Database) -> None:
    for statement in _STEADY_CLOCK:
        db.execute(statement)


@MIGRATIONS(name="0003_keys_in_order")
def _keys_in_order(db: Database) -> None:
    for statement in _KEYS_IN_ORDER:
        db.execute(statement)


@MIGRATIONS(name="0004_keys_by_number_alone")
def _keys_by_number_alone(db: Database) -> None:
    for statement in _KEYS_BY_NUMBER_ALONE:
        db.execute(statement)


@MIGRATIONS(name="0005_ended_without_index")
def _ended_without_index(db: Database) -> None:
    for statement in _ENDED_WITHOUT_INDEX:
        db.execute(statement)
