"""Debts both ways while daemons are killed and the chain is undone; then all books are compared."""

import random
from pathlib import Path
from typing import Final

import trio
from click.testing import CliRunner

from settled.cli import main
from settled.testing import Faults
from tests.engines.ethereum import oracle
from tests.engines.ethereum.anvil import GWEI
from tests.engines.ethereum.network import (
    CONFIRMATIONS,
    FUNDS,
    MAX_FEE_GWEI,
    Network,
    Party,
    network,
)
from tests.engines.ethereum.unrest import UnrestfulChain

_REST_S: Final = 120
_FAULTS: Final = Faults(fail_rate=0.1, lose_reply_rate=0.2, duplicate_rate=0.2)
_DEAR: Final = MAX_FEE_GWEI * GWEI // 3


class Campaign:
    """One run, all of whose choices come from one generator."""

    def __init__(self, net: Network, rng: random.Random) -> None:
        self._net = net
        self._rng = rng

    async def run(self, kills: int) -> None:
        """Settle through so many kills, and wait for what is on its way."""
        await self._net.add_accounts()
        for party in self._net.parties:
            party.system.faults = Faults(
                fail_rate=_FAULTS.fail_rate,
                lose_reply_rate=_FAULTS.lose_reply_rate,
                duplicate_rate=_FAULTS.duplicate_rate,
            )
        troubles = [self._undo, self._drop, self._be_dear]
        self._rng.shuffle(troubles)
        for n in range(kills):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._trade, 6)
                nursery.start_soon(troubles[n % len(troubles)])
                nursery.start_soon(self._kill, self._rng.choice(self._net.parties))
        for party in self._net.parties:
            party.system.faults = Faults()
        await self._trade(4)
        with trio.fail_after(_REST_S):
            await self._net.at_rest()

    async def _trade(self, times: int) -> None:
        for _ in range(times):
            for party in self._net.parties:
                for account_id in party.system.accounts:
                    if self._rng.random() < 0.5:
                        party.system.owe(account_id, self._net.amount(self._units()))
                for account_id in party.others.peers:
                    if self._rng.random() < 0.3:
                        await party.others.pay(account_id, self._units())
            await trio.sleep(self._rng.uniform(0, 0.3))

    def _units(self) -> int:
        return self._rng.randint(1, 10 ** self._rng.randint(1, self._net.decimals + 1))

    async def _kill(self, party: Party) -> None:
        await trio.sleep(self._rng.uniform(0, 1.2))
        party.kill()
        await trio.sleep(self._rng.uniform(0, 0.4))
        await party.start()

    async def _undo(self) -> None:
        for _ in range(3):
            await trio.sleep(self._rng.uniform(0, 0.5))
            await self._net.chain.undo(self._rng.randint(1, CONFIRMATIONS - 1))

    async def _drop(self) -> None:
        dropped = 0
        with trio.move_on_after(2):
            while dropped < 3:
                dropped += bool(await self._net.chain.drop())
                await trio.sleep(0.03)

    async def _be_dear(self) -> None:
        await trio.sleep(self._rng.uniform(0, 0.5))
        with trio.move_on_after(1.5):
            while True:
                await self._net.chain.set_base_fee(_DEAR)
                await trio.sleep(0.05)
        await self._net.chain.set_base_fee(GWEI)


async def run(
    chain: UnrestfulChain,
    directory: Path,
    *,
    token_decimals: int | None,
    seed: int,
    kills: int,
    others: int,
) -> None:
    """Run a campaign, end both daemons, and compare all books."""
    rng = random.Random(seed)
    async with network(chain, directory, rng, token_decimals=token_decimals, others=others) as net:
        await Campaign(net, rng).run(kills)
        for party in net.parties:
            await party.stop()
        await compare(net)


async def compare(net: Network) -> None:
    """Every sum is the same in the connectors' books, the engines', and on the chain."""
    ledger = await oracle.read(net.chain, net.first_block, net.token)
    assert ledger.failed == []
    for party, other in zip(net.parties, net.parties[::-1], strict=True):
        ours, theirs = net.between(party)
        mine = await party.accounts()
        peers = {name: peer.signer.address for name, peer in party.others.peers.items()}
        peers[ours] = other.signer.address
        us = party.signer.address
        assert set(mine) == set(peers)
        for account_id, peer in peers.items():
            account, booked = mine[account_id], party.system.accounts[account_id]
            pairs = ((us, peer), (peer, us))
            paid, received = (net.amount(ledger.moved[pair]) for pair in pairs)
            assert booked.owed == booked.requested == account.requested, account_id
            assert account.requested == account.settled + account.queued == paid, account_id
            assert account.received == account.credited == booked.credited == received, account_id
        yours = (await other.accounts())[theirs]
        assert mine[ours].settled == yours.credited
        assert ledger.sent[us] == await party.transactions()
        await _check_balance(net, ledger, us)
        assert not (errors := party.said("error")), errors
        await trio.to_thread.run_sync(_audit, party.directory / "settled.db")


async def _check_balance(net: Network, ledger: oracle.Ledger, us: str) -> None:
    """What we have is what we had, and what came and went since."""
    came = sum(units for (_, payee), units in ledger.moved.items() if payee == us)
    went = sum(units for (payer, _), units in ledger.moved.items() if payer == us)
    spent = ledger.spent[us]
    if net.token is None:
        assert await net.chain.balance(us) == FUNDS + came - went - spent
    else:
        assert await net.chain.token_balance(net.token, us) == came - went
        assert await net.chain.balance(us) == FUNDS - spent


def _audit(db: Path) -> None:
    result = CliRunner().invoke(main, ["audit", "--db", str(db)])
    assert result.exit_code == 0, result.output
