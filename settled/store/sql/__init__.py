"""The business transactions in SQL: plain functions over an open SQLite transaction.

Nothing here begins or ends a transaction, waits, or knows of trio; ``settled.store.sqlite`` does.
"""
