"""The engine, put together from its parts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from engines.ethereum.asset import Asset, Ether, Token
from engines.ethereum.doubts import Doubts
from engines.ethereum.entries import Entries
from engines.ethereum.handshake import Handshake
from engines.ethereum.node import RpcFailure
from engines.ethereum.options import EthereumOptions
from engines.ethereum.payments import Payments
from engines.ethereum.peers import Peers
from engines.ethereum.proofs import Identity
from engines.ethereum.receiving import Pace, Receiving
from engines.ethereum.rpc import Rpc
from engines.ethereum.scanning import FULL_BLOCKS_MAX, EtherScanner, Scanner, TokenScanner
from engines.ethereum.sending import Addresses, Sender
from engines.ethereum.signing import LocalSigner, Signer, open_keystore
from engines.ethereum.telling import Seldom
from engines.ethereum.transfers import Crediting
from engines.ethereum.units import gwei_to_wei
from engines.ethereum.verdicts import Verdicts
from engines.ethereum.wallet import Wallet
from engines.ethereum.watching import Watcher
from settled import ConfigError, Connect, Services, SettledError

_DIGITS_OF_A_DOUBLE: Final = 15


def open_rpc(services: Services, options: EthereumOptions) -> Rpc:
    """Return our nodes, to be entered."""
    urls = [url for url in (options.rpc_url, options.rpc_url_2) if url is not None]
    return Rpc(urls, chain_id=options.chain_id, timeout_s=options.rpc_timeout_s, log=services.log)


def open_signer(options: EthereumOptions) -> Signer:
    """Return what keeps our key; of a keystore that takes a second.

    Raises:
        ConfigError: when it cannot be had.
    """
    if options.keystore is not None:
        return open_keystore(options.keystore, options.keystore_password or "")
    if options.key is not None:
        return LocalSigner(options.key)
    raise ConfigError("no key: give -o key_file=PATH, or -o keystore=PATH with its password")


async def open_asset(rpc: Rpc, options: EthereumOptions) -> Asset:
    """Return what is paid.

    Raises:
        ConfigError: when the token is none.
        RpcFailure: when no node tells.
    """
    if options.token is None:
        return Ether()
    async with rpc.view() as view:
        return await Token.open(view, options.token)


async def open_sender(
    services: Services,
    options: EthereumOptions,
    *,
    rpc: Rpc,
    signer: Signer,
    asset: Asset,
    peers: Addresses,
) -> Sender:
    """Return what pays, and go on with the payments that are not over.

    Raises:
        ConfigError: when the database is another key's, chain's or asset's.
        RpcFailure: when no node tells.
    """
    payments = Payments(services)
    await payments.load()
    cap = gwei_to_wei(options.max_fee_gwei)
    doubts = Doubts(services, payments, signer.address)
    wallet = Wallet(services, signer, asset, payments, doubts, chain_id=options.chain_id, cap=cap)
    async with rpc.view() as view:
        await wallet.start(view, rpc.genesis)
    verdicts = Verdicts(signer.address, asset, options.confirmations, doubts, Seldom(services.log))
    watcher = Watcher(
        services, rpc=rpc, wallet=wallet, payments=payments, verdicts=verdicts, options=options
    )
    services.nursery.start_soon(watcher.run)
    services.nursery.start_soon(doubts.watch)
    return Sender(
        services,
        rpc=rpc,
        wallet=wallet,
        doubts=doubts,
        verdicts=verdicts,
        asset=asset,
        payments=payments,
        watcher=watcher,
        peers=peers,
    )


async def open_receiving(
    services: Services,
    options: EthereumOptions,
    *,
    rpc: Rpc,
    asset: Asset,
    us: Identity,
    peers: Peers,
) -> None:
    """Begin to follow the chain.

    Raises:
        RpcFailure: when no node tells where to begin.
    """
    scanner: Scanner = EtherScanner(us.chain_id, us.address)
    blocks_max = FULL_BLOCKS_MAX
    if asset.token is not None:
        scanner = TokenScanner(us.chain_id, us.address, asset.token, asset.decimals)
        blocks_max = options.logs_blocks_max
    entries = Entries(services, peers, Crediting(options.max_credit))
    pace = Pace(options.confirmations, options.poll_s, blocks_max)
    receiving = Receiving(services, rpc, scanner, entries, pace)
    await receiving.begin(options.start_block)
    services.nursery.start_soon(receiving.watch)
    services.nursery.start_soon(peers.watch)


class EthereumEngine:
    """One key on one chain, serving any number of accounts."""

    raw_messages = True  # arrays of numbers are bytes here, and one answer is no JSON

    def __init__(
        self,
        services: Services,
        options: EthereumOptions,
        *,
        asset: Asset,
        sender: Sender,
        handshake: Handshake,
        peers: Peers,
    ) -> None:
        self.asset_scale = asset.decimals
        self.settle = sender.settle
        self.find_settlement = sender.find_settlement
        self.handle_message = handshake.answer
        self.close_account = peers.release
        self._services = services
        self._options = options
        self._asset = asset
        self._handshake = handshake
        self._precision_told = False

    async def setup_account(self, account_id: str) -> None:
        """Exchange addresses with the peer; settled tries again until it is there."""
        await self._handshake.introduce(account_id)
        most = self._options.max_credit
        if (
            not self._precision_told
            and self.asset_scale > _DIGITS_OF_A_DOUBLE
            and (most is None or most.scaleb(self.asset_scale) > 2**53)
        ):
            self._precision_told = True
            self._services.log.warning(
                "ethereum_precision",
                account=account_id,
                reason=f"{self._asset.name} has {self.asset_scale} decimals: connectors that keep "
                f"amounts in a double lose what is beyond {_DIGITS_OF_A_DOUBLE} digits. Give the "
                f"account an asset scale of 9 in the connector, or set max_credit so low that "
                f"no credit has more",
            )


def connect_with(options: EthereumOptions, *, signer: Signer | None = None) -> Connect:
    """Return the engine's ``connect``; ``signer`` keeps the key instead of the options.

    The key is tried here, not when the engine is connected: so `settled check` tries it, too.

    Raises:
        ConfigError: when there is no key, or it cannot be had.
    """
    keeper = open_signer(options) if signer is None else signer

    @asynccontextmanager
    async def connect(services: Services) -> AsyncIterator[EthereumEngine]:
        async with open_rpc(services, options) as rpc:
            try:
                await rpc.check()
                asset = await open_asset(rpc, options)
                us = Identity(options.chain_id, asset.token, keeper.address)
                peers = Peers(services, Crediting(options.max_credit))
                handshake = Handshake(services, keeper, peers, us)
                sender = await open_sender(
                    services, options, rpc=rpc, signer=keeper, asset=asset, peers=peers
                )
                await open_receiving(services, options, rpc=rpc, asset=asset, us=us, peers=peers)
            except (RpcFailure, ValueError) as error:
                raise SettledError(f"{error}: try again when the node works") from error
            services.log.info(
                "ethereum_connected", address=us.address, chain_id=us.chain_id, asset=asset.name
            )
            yield EthereumEngine(
                services, options, asset=asset, sender=sender, handshake=handshake, peers=peers
            )

    return connect
