"""A sample of the simulation; ``make simulate SEEDS=1000`` is the whole."""

import os
import subprocess
import sys
from typing import Any

import pytest

from settled.core.outgoing import Outgoing
from settled.store.records import Delivered, NotSent, SettlementOutcome
from settled.store.sql import incoming
from settled.store.sql.new_credits import Credits
from tests.simulation.run import simulate

# Each of them found a flaw once, of the program or of the simulation.
REGRESSIONS = {
    3: "a start ended when another process held the database just then",
    386: "of several commits in a row, one was torn that was synced",
    30: "a request that arrived late closed the account that was opened since",
}


@pytest.mark.parametrize("seed", [*REGRESSIONS, *range(1000, 1005)])
def test_no_promise_is_broken(seed: int) -> None:
    report = simulate(seed)
    assert report.failure is None, "\n".join([*report.trace[-60:], str(report.failure)])


def test_a_seed_is_one_run_exactly_whatever_the_process() -> None:
    code = "from tests.simulation.run import simulate; print(simulate(5).fingerprint)"
    prints = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert prints == {simulate(5).fingerprint + "\n"}


def test_another_seed_is_another_run() -> None:
    assert simulate(5).fingerprint != simulate(6).fingerprint


def test_it_notices_a_program_that_pays_again_by_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    def guess(self: Outgoing, reason: str) -> SettlementOutcome:
        return NotSent(reason, 100)

    monkeypatch.setattr(Outgoing, "_unknown", guess)
    assert "settled instead of" in str(simulate(1).failure)


def test_it_notices_a_program_that_takes_no_answer_for_an_acknowledgement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = Credits.record

    def believe(credits_: Credits, tx: Any, sent: Any) -> Any:
        return record(credits_, tx, [one._replace(outcome=Delivered()) for one in sent])

    monkeypatch.setattr(Credits, "record", believe)
    assert "taken by the connector" in str(simulate(1).failure)


def test_it_notices_a_program_that_sends_what_the_connector_has_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(incoming, "is_too_old", lambda credit, steady: False)
    assert "took effect twice" in str(simulate(3).failure)
