"""Do all the books agree? One row for each account and direction, equal to the last digit."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from tabulate import tabulate

from settled.amounts import EXACT, ZERO, to_text
from settled.testing.accounting import AccountingSystem
from settled.testing.books import PeerAccount
from settled.testing.demo_daemon import Row, amount


@dataclass(frozen=True, slots=True)
class Flow:
    """What one side owed the other in one account, followed through everybody's books.

    Args:
        payer: who owes.
        payee: whom.
        account: what the account is called.
        owed: by the books of the payer's connector.
        settled: by the payer's daemon.
        received: by the payee's daemon.
        credited: by the books of the payee's connector.
        unrest: what is not as it must be at the end, in words.
    """

    payer: str
    payee: str
    account: str
    owed: Decimal
    settled: Decimal
    received: Decimal
    credited: Decimal
    unrest: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether all four amounts are the same, and nothing is left to do."""
        return self.owed == self.settled == self.received == self.credited and not self.unrest


def follow(
    payer: AccountingSystem,
    payer_row: Row,
    payee: AccountingSystem,
    payee_row: Row,
    name: str,
) -> Flow:
    """Gather the four amounts of one flow; ``*_row`` are the daemons' JSON of the account."""
    owing = payer.accounts[payer_row["id"]]
    owed_to = payee.accounts[payee_row["id"]]
    return Flow(
        payer=payer.name,
        payee=payee.name,
        account=name,
        owed=owing.owed,
        settled=amount(payer_row, "settled"),
        received=amount(payee_row, "received"),
        credited=owed_to.credited,
        unrest=_unrest(owing, payer_row, owed_to, payee_row),
    )


def _unrest(
    owing: PeerAccount, payer_row: Row, owed_to: PeerAccount, payee_row: Row
) -> tuple[str, ...]:
    """Return what is still on its way, or differs between a connector and its daemon."""
    expected = [
        ("payable at the payer's connector", owing.payable, ZERO),
        ("requested at the payer's daemon", amount(payer_row, "requested"), owing.requested),
        ("queued at the payer's daemon", amount(payer_row, "queued"), ZERO),
        ("in flight at the payer's daemon", amount(payer_row, "in_flight"), ZERO),
        ("unknown at the payer's daemon", amount(payer_row, "unknown"), ZERO),
        ("parked at the payee's daemon", amount(payee_row, "parked"), ZERO),
        ("credited by the payee's daemon", amount(payee_row, "credited"), owed_to.credited),
        ("receivable at the payee's connector", owed_to.receivable, ZERO),
    ]
    return tuple(
        f"{what} is {to_text(found)}, not {to_text(wanted)}"
        for what, found, wanted in expected
        if found != wanted
    )


def table(flows: Sequence[Flow]) -> str:
    """Return the flows as a table for people."""
    headers = ("payer", "payee", "account", "owed", "settled", "received", "credited", "")
    rows = [
        (
            flow.payer,
            flow.payee,
            flow.account,
            to_text(flow.owed),
            to_text(flow.settled),
            to_text(flow.received),
            to_text(flow.credited),
            "equal" if flow.equal else "DIFFERENT",
        )
        for flow in flows
    ]
    aligned = ("left",) * 3 + ("right",) * 4 + ("left",)
    return tabulate(rows, headers, tablefmt="simple", disable_numparse=True, colalign=aligned)


def differences(flows: Sequence[Flow], on_ledger: dict[tuple[str, str], Decimal]) -> list[str]:
    """Return, in words, whatever is not equal.

    Args:
        flows: of all accounts, in both directions.
        on_ledger: what the ledger moved in all, by payer and payee.
    """
    found = []
    for flow in flows:
        if not flow.equal:
            reasons = "; ".join(flow.unrest) or "the amounts in the table differ"
            found.append(f"{flow.payer} to {flow.payee}, {flow.account}: {reasons}")
    for (payer, payee), moved in on_ledger.items():
        settled = total(
            flow.settled for flow in flows if (flow.payer, flow.payee) == (payer, payee)
        )
        if settled != moved:
            found.append(
                f"the ledger moved {to_text(moved)} from {payer} to {payee}, "
                f"but the daemon of {payer} settled {to_text(settled)}"
            )
    return found


def total(amounts: Iterable[Decimal]) -> Decimal:
    """Return the exact sum."""
    result = ZERO
    for addend in amounts:
        result = EXACT.add(result, addend)
    return result
