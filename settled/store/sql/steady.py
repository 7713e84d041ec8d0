"""The steady clock of a database, kept where it outlives processes: see ``settled.store.clock``."""

from collections.abc import Sequence
from typing import Any

from settled.store.clock import Mark, Uptime
from settled.store.sql.ledger import Tx


def steady_ms(tx: Tx) -> int:
    """Read the steady clock, and mark what every clock says now."""
    row = tx.conn.execute("SELECT steady_ms, wall_ms, boot, uptime_ms FROM clock").fetchone()
    if row is None:
        mark = Mark(tx.now_ms, tx.now_ms, tx.uptime)
    else:
        mark = mark_of(row).advanced(tx.now_ms, tx.uptime)
    tx.conn.execute("INSERT OR REPLACE INTO clock VALUES (1, ?, ?, ?, ?)", row_of(mark))
    return mark.steady_ms


def mark_of(row: Sequence[Any]) -> Mark:
    """Return the mark that a row of ``clock`` says, without its first column."""
    return Mark(row[0], row[1], Uptime(row[2], row[3]))


def row_of(mark: Mark) -> tuple[int, int, str, int]:
    """Return the row that says the mark."""
    return mark.steady_ms, mark.wall_ms, mark.uptime.boot, mark.uptime.ms
