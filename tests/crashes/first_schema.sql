-- A database as the first release made it: two accounts, and a request of each.
BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'settled','0001_first','2026-11-22 19:48:32.890134+00:00');
CREATE TABLE accounts (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        requested TEXT NOT NULL DEFAULT '0' CHECK (requested GLOB '[0-9]*' AND requested NOT GLOB '*[^0-9.]*'),
        queued TEXT NOT NULL DEFAULT '0' CHECK (ltrim(queued, '-') GLOB '[0-9]*' AND ltrim(queued, '-') NOT GLOB '*[^0-9.]*'),
        in_flight TEXT NOT NULL DEFAULT '0' CHECK (in_flight GLOB '[0-9]*' AND in_flight NOT GLOB '*[^0-9.]*'),
        unknown TEXT NOT NULL DEFAULT '0' CHECK (unknown GLOB '[0-9]*' AND unknown NOT GLOB '*[^0-9.]*'),
        settled TEXT NOT NULL DEFAULT '0' CHECK (settled GLOB '[0-9]*' AND settled NOT GLOB '*[^0-9.]*'),
        received TEXT NOT NULL DEFAULT '0' CHECK (received GLOB '[0-9]*' AND received NOT GLOB '*[^0-9.]*'),
        undelivered TEXT NOT NULL DEFAULT '0' CHECK (undelivered GLOB '[0-9]*' AND undelivered NOT GLOB '*[^0-9.]*'),
        parked TEXT NOT NULL DEFAULT '0' CHECK (parked GLOB '[0-9]*' AND parked NOT GLOB '*[^0-9.]*'),
        credited TEXT NOT NULL DEFAULT '0' CHECK (credited GLOB '[0-9]*' AND credited NOT GLOB '*[^0-9.]*'),
        waiting TEXT,
        retry_ms INTEGER,
        failures INTEGER NOT NULL DEFAULT 0,
        hook TEXT CHECK (hook IN ('setup_account', 'close_account')),
        hook_failures INTEGER NOT NULL DEFAULT 0,
        hook_retry_ms INTEGER NOT NULL DEFAULT 0,
        opened_ms INTEGER NOT NULL,
        closed_ms INTEGER
    ) STRICT
    ;
INSERT INTO "accounts" VALUES(1,'alice','5','5','0','0','0','0','0','0','0',NULL,0,0,NULL,0,0,1800000000000,NULL);
INSERT INTO "accounts" VALUES(2,'bob','1.25','1.25','0','0','0','0','0','0','0',NULL,0,0,NULL,0,0,1800000000000,NULL);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO "counters" VALUES('key_tick',0);
CREATE TABLE credits (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        account INTEGER NOT NULL REFERENCES accounts (number),
        account_id TEXT NOT NULL,
        settlement_id TEXT NOT NULL,
        amount TEXT NOT NULL DEFAULT '0' CHECK (amount GLOB '[0-9]*' AND amount NOT GLOB '*[^0-9.]*'),
        state TEXT NOT NULL CHECK (state IN ('undelivered', 'credited', 'parked')),
        reason TEXT,
        attempts INTEGER NOT NULL DEFAULT 0,
        ambiguous_ms INTEGER,
        retry_ms INTEGER NOT NULL DEFAULT 0,
        created_ms INTEGER NOT NULL,
        updated_ms INTEGER NOT NULL,
        UNIQUE (account_id, settlement_id)
    ) STRICT
    ;
CREATE TABLE engine_state (
        account_id TEXT NOT NULL,
        key TEXT NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (account_id, key)
    ) STRICT, WITHOUT ROWID
    ;
CREATE TABLE idempotency_keys (
        account_id TEXT NOT NULL,
        key TEXT NOT NULL,
        account INTEGER NOT NULL,
        amount TEXT NOT NULL,
        scale INTEGER NOT NULL,
        tick INTEGER NOT NULL,
        PRIMARY KEY (account_id, key)
    ) STRICT, WITHOUT ROWID
    ;
INSERT INTO "idempotency_keys" VALUES('alice','a1',1,'5',0,0);
INSERT INTO "idempotency_keys" VALUES('bob','b1',2,'00125',2,0);
CREATE TABLE journal (
        seq INTEGER PRIMARY KEY,
        at_ms INTEGER NOT NULL,
        account INTEGER NOT NULL REFERENCES accounts (number),
        source TEXT NOT NULL,
        target TEXT NOT NULL,
        amount TEXT NOT NULL,
        ref TEXT NOT NULL
    ) STRICT
    ;
INSERT INTO "journal" VALUES(1,1800000000000,1,'requested','queued','5','a1');
INSERT INTO "journal" VALUES(2,1800000000000,2,'requested','queued','1.25','b1');
CREATE TABLE nudges (number INTEGER PRIMARY KEY, account INTEGER NOT NULL) STRICT;
CREATE TABLE settlements (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        account INTEGER NOT NULL REFERENCES accounts (number),
        amount TEXT NOT NULL DEFAULT '0' CHECK (amount GLOB '[0-9]*' AND amount NOT GLOB '*[^0-9.]*'),
        state TEXT NOT NULL
            CHECK (state IN ('in_flight', 'unknown', 'parked', 'settled', 'not_sent')),
        settled TEXT NOT NULL DEFAULT '0' CHECK (settled GLOB '[0-9]*' AND settled NOT GLOB '*[^0-9.]*'),
        reason TEXT,
        failures INTEGER NOT NULL DEFAULT 0,
        retry_ms INTEGER NOT NULL DEFAULT 0,
        created_ms INTEGER NOT NULL,
        updated_ms INTEGER NOT NULL
    ) STRICT
    ;
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE INDEX accounts_id ON accounts (id);
CREATE UNIQUE INDEX accounts_open ON accounts (id) WHERE closed_ms IS NULL;
CREATE INDEX accounts_queued ON accounts (number) WHERE queued <> '0';
CREATE INDEX accounts_hook ON accounts (number) WHERE hook IS NOT NULL;
CREATE TRIGGER journal_no_update BEFORE UPDATE ON journal
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER journal_no_delete BEFORE DELETE ON journal
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE INDEX idempotency_keys_tick ON idempotency_keys (tick);
CREATE UNIQUE INDEX settlements_one_open ON settlements (account)
        WHERE state IN ('in_flight', 'unknown', 'parked')
    ;
CREATE INDEX settlements_account ON settlements (account);
CREATE INDEX settlements_state ON settlements (state);
CREATE INDEX credits_undelivered ON credits (account, retry_ms) WHERE state = 'undelivered';
CREATE INDEX credits_account ON credits (account);
CREATE INDEX credits_state ON credits (state);
COMMIT;
