"""The engine, put together from its parts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from engines.ethereum.asset import Asset, Ether, Token
from engines.ethereum.node import RpcFailure
from engines.ethereum.options import EthereumOptions
from engines.ethereum.payments import Payments
from engines.ethereum.rpc import Rpc
from engines.ethereum.sending import Addresses, Sender
from engines.ethereum.signing import LocalSigner, Signer, open_keystore
from engines.ethereum.telling import Seldom
from engines.ethereum.units import gwei_to_wei
from engines.ethereum.verdicts import Verdicts
from engines.ethereum.wallet import Wallet
from engines.ethereum.watching import Watcher
from settled import ConfigError, Connect, Services


def open_rpc(services: Services, options: EthereumOptions) -> Rpc:
    """Return our nodes, to be entered."""
    urls = [url for url in (options.rpc_url, options.rpc_url_2) if url is not None]
    return Rpc(urls, chain_id=options.chain_id, timeout_s=options.rpc_timeout_s, log=services.log)


async def open_signer(options: EthereumOptions) -> Signer:
    """Return what keeps our key.

    Raises:
        ConfigError: when it cannot be had.
    """
    if options.keystore is not None:
        return await trio.to_thread.run_sync(
            open_keystore, options.keystore, options.keystore_password or ""
        )
    return LocalSigner(options.key or "")


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
    wallet = Wallet(services, signer, asset, payments, chain_id=options.chain_id, cap=cap)
    async with rpc.view() as view:
        await wallet.start(view, rpc.genesis)
    verdicts = Verdicts(signer.address, asset, options.confirmations, Seldom(services.log))
    watcher = Watcher(
        services, rpc=rpc, wallet=wallet, payments=payments, verdicts=verdicts, options=options
    )
    services.nursery.start_soon(watcher.run)
    services.nursery.start_soon(wallet.clear_doubt)
    return Sender(
        services,
        rpc=rpc,
        wallet=wallet,
        asset=asset,
        payments=payments,
        watcher=watcher,
        peers=peers,
    )


def connect_with(options: EthereumOptions) -> Connect:
    """Return the engine's ``connect``."""

    @asynccontextmanager
    async def connect(services: Services) -> AsyncIterator[object]:
        signer = await open_signer(options)
        async with open_rpc(services, options) as rpc:
            try:
                await rpc.check()
                asset = await open_asset(rpc, options)
            except RpcFailure as error:
                raise ConfigError(f"{error}: try again when the node works") from error
            yield asset

    return connect
