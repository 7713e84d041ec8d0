"""A payment on the chain to us, and what it becomes in settled's books."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Final

from settled import Services, SettlementConflict, Transaction

_DIGITS: Final = 2048  # more than any amount has: nothing is rounded
_PARTS_MAX: Final = 10_000  # of one transfer; a limit that is lower still gives way
_BATCH: Final = 200  # transfers to commit at once


@dataclass(frozen=True, slots=True)
class Transfer:
    """A confirmed payment to us.

    Attributes:
        id: the same wherever and whenever the chain shows this payment.
        sender: the address that paid, in lower case.
        amount: in the standard unit.
        block: the number of the block that it was in.
    """

    id: str
    sender: str
    amount: Decimal
    block: int


class Crediting:
    """Turns transfers into credits, none larger than ``max_credit``."""

    def __init__(self, max_credit: Decimal | None) -> None:
        self._max = max_credit

    def credit(self, changes: Transaction, account_id: str, transfer: Transfer) -> None:
        """Credit a transfer to an account, in parts if need be, in one transaction.

        The first part has the transfer's own id whatever the limit is. So if the limit was changed
        and the transfer is seen again, the first part comes with another amount than before: a
        ``SettlementConflict``, which keeps all parts from being credited again.
        """
        for settlement_id, amount in self._parts(transfer):
            changes.credit_settlement(account_id, amount, settlement_id)

    def batches(self, transfers: Iterable[Transfer]) -> Iterator[list[Transfer]]:
        """Divide transfers into what is committed together: not too much at once.

        The parts of one transfer stay together.
        """
        batch: list[Transfer] = []
        parts = 0
        for transfer in transfers:
            more = self._count(transfer.amount)
            if batch and (len(batch) == _BATCH or parts + more > _PARTS_MAX):
                yield batch
                batch, parts = [], 0
            batch.append(transfer)
            parts += more
        if batch:
            yield batch

    @staticmethod
    def tell_conflict(
        services: Services, account_id: str, transfer: Transfer, error: SettlementConflict
    ) -> None:
        """Tell of a transfer that was credited before, as another amount or in other parts."""
        services.log.error(
            "ethereum_payment_credited_before",
            account=account_id,
            amount=f"{transfer.amount:f}",
            transfer=transfer.id,
            reason=f"{error}; it is not credited again",
        )

    def _count(self, amount: Decimal) -> int:
        """Return in how many parts an amount is credited, or more."""
        if self._max is None or amount <= self._max:
            return 1
        with localcontext(prec=_DIGITS):
            return int(min(_times(amount, self._max), Decimal(_PARTS_MAX)))

    def _parts(self, transfer: Transfer) -> Iterator[tuple[str, Decimal]]:
        """Yield ids and amounts; both follow from the amount and the first part's alone."""
        amount = transfer.amount
        if self._max is None or amount <= self._max:
            yield transfer.id, amount
            return
        with localcontext(prec=_DIGITS):
            part = self._max * _times(_times(amount, self._max), Decimal(_PARTS_MAX))
            count = _times(amount, part)
            last = amount - part * (count - 1)
        yield transfer.id, part
        for n in range(2, int(count)):
            yield f"{transfer.id}-{n}/{count:f}", part
        yield f"{transfer.id}-{count:f}/{count:f}", last


def _times(amount: Decimal, part: Decimal) -> Decimal:
    """Return how many parts of this size hold an amount."""
    whole, rest = divmod(amount, part)
    return whole + 1 if rest else whole
