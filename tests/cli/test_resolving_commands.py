"""``settled settlements`` and ``settled credits``: their output, JSON and exit codes."""

from pathlib import Path

import pytest
import trio
from click.testing import Result

from settled.store.protocol import Store
from settled.store.records import (
    Parked,
    SettlementOutcome,
    Unknown,
)
from tests.cli.books import begun, cli, cli_json, credited, daemon

# --- settlements ---


def test_a_settlement_has_json(db: Path) -> None:
    begun(db, Unknown("time-out", 5000))
    shown = cli_json(db, "settlements", "show", "s-1")
    assert list(shown) == [
        *("id", "account", "state", "amount", "settled", "reason", "failures"),
        *("retry_at", "created_at", "updated_at", "number"),
    ]
    assert (shown["state"], shown["amount"], shown["reason"]) == ("unknown", "10", "time-out")
    assert shown["retry_at"] > shown["updated_at"]
    assert cli_json(db, "settlements", "list") == [shown]


@pytest.mark.parametrize("outcome", [Unknown("time-out"), Parked("cannot tell")])
def test_resolving_as_settled_records_what_was_paid(db: Path, outcome: SettlementOutcome) -> None:
    begun(db, outcome)
    resolved = cli_json(db, "settlements", "resolve", "s-1", "--settled", "4.50")
    assert (resolved["state"], resolved["settled"]) == ("settled", "4.5")
    account = cli_json(db, "accounts", "show", "alice")
    assert (account["settled"], account["queued"], account["unknown"]) == ("4.5", "5.5", "0")
    assert "final" in cli(db, "settlements", "resolve", "s-1", "--not-sent", code=1).stderr


@pytest.mark.parametrize("outcome", [Unknown("time-out"), Parked("cannot tell")])
def test_resolving_as_not_sent_queues_it_again(db: Path, outcome: SettlementOutcome) -> None:
    begun(db, outcome)
    assert cli_json(db, "settlements", "resolve", "s-1", "--not-sent")["state"] == "not_sent"
    account = cli_json(db, "accounts", "show", "alice")
    assert (account["queued"], account["unknown"]) == ("10", "0")


def test_one_that_a_dead_daemon_left_in_flight_can_be_resolved(db: Path) -> None:
    begun(db)
    resolved = cli_json(db, "settlements", "resolve", "s-1", "--settled", "10")
    assert (resolved["state"], resolved["settled"]) == ("settled", "10")
    assert cli_json(db, "accounts", "show", "alice")["in_flight"] == "0"


def test_one_that_a_daemon_has_in_flight_cannot_be_resolved(db: Path) -> None:
    begun(db)

    async def act(_: Store) -> Result:
        return await trio.to_thread.run_sync(
            lambda: cli(db, "settlements", "resolve", "s-1", "--not-sent", code=1)
        )

    assert "in flight now; wait for its outcome" in daemon(db, act).stderr
    assert cli_json(db, "settlements", "show", "s-1")["state"] == "in_flight"


@pytest.mark.parametrize("options", [[], ["--not-sent", "--settled", "1"]])
def test_resolving_takes_exactly_one_outcome(db: Path, options: list[str]) -> None:
    begun(db, Parked("cannot tell"))
    cli(db, "settlements", "resolve", "s-1", *options, code=2)
    cli(db, "settlements", "resolve", "s-1", "--settled", "1e3", code=2)
    assert cli_json(db, "settlements", "show", "s-1")["state"] == "parked"


# --- credits ---


def test_a_credit_has_json(db: Path) -> None:
    credit_id = credited(db)
    shown = cli_json(db, "credits", "show", credit_id)
    assert list(shown) == [
        *("id", "account", "settlement_id", "state", "amount", "reason", "attempts"),
        *("ambiguous_since", "retry_at", "created_at", "updated_at", "number"),
    ]
    assert (shown["settlement_id"], shown["state"], shown["amount"]) == (
        "tx-1",
        "undelivered",
        "2.5",
    )
    assert cli_json(db, "credits", "list") == [shown]


def test_a_parked_credit_can_be_sent_again(db: Path) -> None:
    credit_id = credited(db, parked=True)
    assert cli_json(db, "credits", "list", "--state", "parked")[0]["id"] == credit_id
    assert cli_json(db, "accounts", "show", "alice")["parked"] == "2.5"
    assert cli_json(db, "credits", "retry", credit_id)["state"] == "undelivered"
    assert cli_json(db, "accounts", "show", "alice")["parked"] == "0"


def test_a_parked_credit_can_be_resolved_with_a_note(db: Path) -> None:
    credit_id = credited(db, parked=True)
    cli(db, "credits", "resolve", credit_id, code=2)
    resolved = cli_json(db, "credits", "resolve", credit_id, "--credited", "--note", "ticket 17")
    assert (resolved["state"], resolved["reason"]) == ("credited", "ticket 17")
    assert cli_json(db, "accounts", "show", "alice")["credited"] == "2.5"
    for command in (["retry", credit_id], ["resolve", credit_id, "--credited"]):
        assert credit_id in cli(db, "credits", *command, code=1).stderr
