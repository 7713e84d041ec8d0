"""The simulated connector of a host: it asks for settlements, takes credits, carries messages."""

from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

import httpx2
import msgspec
import trio

from settled.amounts import EXACT, ZERO, Quantity, to_text
from settled.core.operations import Operations
from settled.http import handlers
from settled.http.replies import Reply
from tests.harness import post_in_a_round
from tests.simulation.network import Answer, Network, NoAnswer, NotReached
from tests.simulation.world import DAY_S, Violation, World

_TIMEOUT_S: Final = 5.0
_KEY_LIFE_S: Final = DAY_S  # after its first use, as connectors keep them
_RETRY_S: Final = 5.0

# Makes the host's daemon answer; ``None`` when it is down, dies, or gives no answer.
Daemon = Callable[[Callable[[Operations], Awaitable[Reply]]], Awaitable[Answer | None]]


@dataclass
class Request:
    """A settlement that the connector asks its engine for."""

    account_id: str
    key: str
    quantity: Quantity
    acknowledged: bool = False
    refused: bool = False


@dataclass
class Connector:
    """The accounting system beside one daemon. It never forgets but what real ones forget.

    Attributes:
        requests: by idempotency key, all that was ever asked for.
        credited: by account, the sum of what it took as paid.
        effects: by idempotency key, how often a credit took effect.
    """

    world: World
    name: str
    network: Network
    daemon: Daemon
    peer_daemon: Callable[[str, bytes], Awaitable[Answer | None]]
    requests: dict[str, Request] = field(default_factory=dict)
    credited: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(lambda: ZERO))
    effects: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    _keys: dict[str, float] = field(default_factory=dict)
    _mute: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        dice, horizon_s = self.world.dice, self.world.horizon_s
        if horizon_s >= DAY_S and dice.random() < 0.3:
            from_s = dice.uniform(0, horizon_s / 2)
            self._mute = (from_s, from_s + dice.uniform(0.5, 1.5) * DAY_S)

    # --- what it asks of its engine ---

    async def open_account(self, account_id: str) -> None:
        """Have the engine open the account, however often that takes."""
        body = msgspec.json.encode({"id": account_id})
        await self._until_clear(
            lambda: self.daemon(
                lambda operations: handlers.post_account(
                    operations, content_type="application/json", body=body
                )
            )
        )

    async def close_account(self, account_id: str) -> None:
        """Have the engine close the account, however often that takes."""
        await self._until_clear(
            lambda: self.daemon(lambda operations: handlers.delete_account(operations, account_id)),
            repeats=False,  # a late one would close the account that was opened since
        )

    async def ask(self, request: Request) -> None:
        """Ask for a settlement, again and again under the same key, until the answer is clear."""
        self.requests[request.key] = request
        quantity = request.quantity
        body = msgspec.json.encode({"amount": quantity.amount, "scale": quantity.scale})
        if self.world.dice.random() < 0.1:  # the same value, written in another way
            wider = {"amount": quantity.amount + "0", "scale": quantity.scale + 1}
            body = msgspec.json.encode(wider)
        post = handlers.PostSettlement(request.account_id, "application/json", [request.key], body)
        ask = self.world.dice.choice([handlers.post_settlement, post_in_a_round])
        status = await self._until_clear(
            lambda: self.daemon(lambda operations: ask(operations, post))
        )
        request.acknowledged = status == 201
        request.refused = status == 404
        self.world.note("answered", key=request.key, status=status)

    async def _until_clear(
        self, serve: Callable[[], Awaitable[Answer | None]], *, repeats: bool = True
    ) -> int:
        """Return the status of the first answer that is neither lost nor a passing fault."""
        while True:
            with trio.move_on_after(_TIMEOUT_S):
                try:
                    link = f"{self.name} connector-engine"
                    answer = await self.network.call(link, serve, repeats=repeats)
                except (NotReached, NoAnswer):
                    pass
                else:
                    if answer.status not in (201, 204, 404, 503):
                        raise Violation(f"the daemon of {self.name} answered {answer}")
                    if answer.status != 503:
                        return answer.status
            await trio.sleep(self.world.delay_s(max(_RETRY_S, self.world.horizon_s / 200)))

    # --- what its engine asks of it ---

    async def serve(self, request: httpx2.Request) -> Answer | None:
        """Take a credit or a message from the engine, or answer something else."""
        _, _, account_id, kind = request.url.path.split("/")
        if kind == "messages":
            return await self.peer_daemon(account_id, request.content)
        rate = self.world.rates.answer
        if self.world.fault("connector refuses", rate / 3):
            return Answer(self.world.dice.choice([400, 404, 429, 301]))
        if self.world.fault("connector fails before", rate / 3):
            return Answer(self.world.dice.choice([500, 502, 503, 409]))
        quantity = msgspec.json.decode(request.content)
        self._credit(
            account_id,
            request.headers["Idempotency-Key"],
            Quantity(quantity["amount"], quantity["scale"]).value,
        )
        from_s, until_s = self._mute
        mute = from_s < trio.current_time() < until_s
        if self.world.fault("connector mute for a day", 1.0 if mute else 0.0):
            return None
        if self.world.fault("connector fails after", rate / 3):
            return Answer(self.world.dice.choice([500, 502, 503, 409]))
        if self.world.fault("connector hangs after", rate / 6):
            return None
        return Answer(self.world.dice.choice([200, 201, 204]))

    def _credit(self, account_id: str, key: str, amount: Decimal) -> None:
        now_s = trio.current_time()
        if now_s < self._keys.get(key, now_s) + _KEY_LIFE_S and key in self._keys:
            return
        self._keys[key] = now_s
        self.effects[key] += 1
        if self.effects[key] > 1:
            raise Violation(f"credit {key} of {account_id} took effect twice")
        self.credited[account_id] = EXACT.add(self.credited[account_id], amount)
        self.world.note("connector credits", account=account_id, key=key, amount=to_text(amount))
