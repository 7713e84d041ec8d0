"""The operator's part: to see what is parked, look at the ledger, and say what became of it."""

import json
from decimal import Decimal
from typing import Any

from click.testing import CliRunner

from settled.amounts import to_text
from settled.cli import main
from tests.crashes.world import World
from tests.harness import sum_exactly


def command(world: World, *arguments: str) -> Any:
    """Run a command of ``settled`` that prints JSON, and return that."""
    done = CliRunner().invoke(main, [*arguments, "--db", str(world.db), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def resolve_parked(world: World) -> int:
    """Resolve all that is parked by the books outside; return how much it was."""
    return _resolve_settlements(world) + _resolve_credits(world)


def _resolve_settlements(world: World) -> int:
    parked = command(world, "settlements", "list", "--state", "parked", "--all")
    for settlement in parked:
        assert "settled settlements resolve" in settlement["reason"]
        paid = sum_exactly(
            Decimal(entry["amount"])
            for entry in world.ledger.read()
            if entry["id"] == settlement["id"]
        )
        word = ("--settled", to_text(paid)) if paid else ("--not-sent",)
        command(world, "settlements", "resolve", settlement["id"], *word)
    return len(parked)


def _resolve_credits(world: World) -> int:
    parked = command(world, "credits", "list", "--state", "parked", "--all")
    credited = {entry["key"] for entry in world.connector.read()}
    for credit in parked:
        assert "settled credits resolve" in credit["reason"]
        word = ("resolve", credit["id"], "--credited")
        command(world, "credits", *(word if credit["id"] in credited else ("retry", credit["id"])))
    return len(parked)
