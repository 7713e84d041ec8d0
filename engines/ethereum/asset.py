"""What is paid: ether, or one ERC-20 token. Everything that differs between the two is here."""

from dataclasses import dataclass
from typing import Any, Final, Protocol

from eth_utils.address import is_checksum_address

from engines.ethereum import abi
from engines.ethereum.node import Call, RpcError
from engines.ethereum.rpc import View
from engines.ethereum.transactions import Payment
from engines.ethereum.units import ETHER_DECIMALS, to_text
from settled import ConfigError, NotSettled

_DECIMALS_MAX: Final = 77  # with more, not one whole token fits 256 bits


@dataclass(frozen=True, slots=True)
class Order:
    """What a transaction has to say to pay somebody: where it goes, with how much, calling what."""

    to: str
    value: int
    data: str

    def call(self, sender: str) -> dict[str, str]:
        """Return it as nodes take it, to try it out."""
        return {"from": sender, "to": self.to, "value": hex(self.value), "data": self.data}


class Asset(Protocol):
    """What the engine pays in and is paid in.

    Attributes:
        decimals: of its smallest unit.
        token: the token's address, ``None`` for ether.
        name: what to call it.
    """

    @property
    def decimals(self) -> int: ...
    @property
    def token(self) -> str | None: ...
    @property
    def name(self) -> str: ...

    def order(self, payee: str, units: int) -> Order:
        """Return what pays ``units`` to somebody."""
        ...

    def questions(self, sender: str, order: Order, head: int) -> list[Call]:
        """Return what to ask a node before ``order`` is signed, beside the ether that we have."""
        ...

    def check(self, answers: list[Any], units: int, pending: int) -> None:
        """Look at what the node answered; ``pending`` units are on their way already.

        Raises:
            NotSettled: when it would not work.
        """
        ...

    async def moved(
        self, view: View, receipt: dict[str, Any], payment: Payment, sender: str
    ) -> int | None:
        """Return how many units a transaction that was mined with success has moved.

        ``None``: that cannot be told.

        Raises:
            ValueError: when the receipt does not say.
        """
        ...


class Ether:
    """The chain's own asset."""

    decimals = ETHER_DECIMALS
    token = None
    name = "ether"

    def order(self, payee: str, units: int) -> Order:
        """See ``Asset``."""
        return Order(payee, units, "0x")

    def questions(self, sender: str, order: Order, head: int) -> list[Call]:
        """See ``Asset``."""
        return []

    def check(self, answers: list[Any], units: int, pending: int) -> None:
        """See ``Asset``: the ether that we have is looked at for every payment."""

    async def moved(
        self, view: View, receipt: dict[str, Any], payment: Payment, sender: str
    ) -> int:
        """See ``Asset``: a transaction that succeeded has moved its value."""
        return payment.value


class Token:
    """An ERC-20 token.

    Example::

        token = await Token.open(view, "0x6b17...")
    """

    def __init__(self, token: str, decimals: int) -> None:
        self.token = token
        self.decimals = decimals
        self.name = f"token {token}"

    @classmethod
    async def open(cls, view: View, text: str) -> "Token":
        """Return the token at an address.

        Raises:
            ConfigError: when there is none.
        """
        if text[2:] not in (text[2:].lower(), text[2:].upper()) and not is_checksum_address(text):
            raise ConfigError(f"token {text} is mistyped: its upper and lower case do not match")
        token = abi.address(text)
        code, answer = await view.batch(
            [
                ("eth_getCode", [token, hex(view.head)]),
                ("eth_call", [{"to": token, "data": abi.DECIMALS_CALL}, hex(view.head)]),
            ]
        )
        if isinstance(code, RpcError):
            raise code
        try:
            decimals = abi.read_uint(answer)
        except ValueError:
            decimals = -1
        if code in ("0x", None) or not 0 <= decimals <= _DECIMALS_MAX:
            what = "no contract" if code in ("0x", None) else "a contract without decimals()"
            raise ConfigError(f"token {token} is {what} on this chain: see to token and chain_id")
        return cls(token, decimals)

    def order(self, payee: str, units: int) -> Order:
        """See ``Asset``."""
        return Order(self.token, 0, abi.transfer_call(payee, units))

    def questions(self, sender: str, order: Order, head: int) -> list[Call]:
        """See ``Asset``."""
        balance = {"to": self.token, "data": abi.balance_call(sender)}
        return [
            ("eth_call", [balance, hex(head)]),
            ("eth_call", [order.call(sender), hex(head)]),
        ]

    def check(self, answers: list[Any], units: int, pending: int) -> None:
        """See ``Asset``."""
        balance, result = answers
        if isinstance(balance, RpcError):
            raise NotSettled(f"{self.name} does not tell our balance: {balance}")
        ours = abi.read_uint(balance)
        if ours < units + pending:
            have, need = (to_text(n, self.decimals) for n in (ours, units + pending))
            raise NotSettled(f"we have {have} of {self.name} and need {need}: top it up")
        if isinstance(result, RpcError):
            raise NotSettled(f"{self.name} would not move: {result}")
        if not abi.says_true(result):
            raise NotSettled(f"{self.name} would not move: transfer returns false")

    async def moved(
        self, view: View, receipt: dict[str, Any], payment: Payment, sender: str
    ) -> int | None:
        """See ``Asset``: what its Transfer logs from us to the payee say.

        Not all tokens log what they move: without such a log, it has moved nothing only if neither
        our balance nor the payee's is another than one block before.
        """
        logs = receipt.get("logs")
        if not isinstance(logs, list):  # what is not shown may have moved all the same
            raise ValueError("the node gave a receipt with no logs")  # noqa: TRY004
        logged = sum(
            transfer.value
            for _, transfer in abi.transfers_of(self.token, logs)
            if (transfer.sender, transfer.recipient) == (sender, payment.payee)
        )
        if logged:
            return logged
        block = abi.number(receipt.get("blockNumber"))
        balances = [
            await view.batch(
                [
                    ("eth_call", [{"to": self.token, "data": abi.balance_call(owner)}, hex(number)])
                    for number in (block - 1, block)
                ]
            )
            for owner in (sender, payment.payee)
        ]
        try:
            same = all(abi.read_uint(before) == abi.read_uint(after) for before, after in balances)
        except ValueError:  # or an error: the node has no such old states
            same = False
        return 0 if same else None
