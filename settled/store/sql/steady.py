"""The steady clock of a database, kept where it outlives processes: see ``settled.store.clock``."""

from settled.store.clock import Mark, Uptime
from settled.store.sql.ledger import Tx


def steady_ms(tx: Tx) -> int:
    """Read the steady clock, and mark what every clock says now."""
    row = tx.conn.execute("SELECT steady_ms, wall_ms, boot, uptime_ms FROM clock").fetchone()
    if row is None:
        mark = Mark(tx.now_ms, tx.now_ms, tx.uptime)
    else:
        mark = Mark(row[0], row[1], Uptime(row[2], row[3])).advanced(tx.now_ms, tx.uptime)
    tx.conn.execute(
        "INSERT OR REPLACE INTO clock VALUES (1, ?, ?, ?, ?)",
        (mark.steady_ms, mark.wall_ms, mark.uptime.boot, mark.uptime.ms),
    )
    return mark.steady_ms
