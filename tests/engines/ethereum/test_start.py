"""How the engine starts, or says in one line why it does not."""

import json
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from click.testing import CliRunner

import engines.ethereum
from engines.ethereum import create_engine
from engines.ethereum.accounts import Account
from engines.ethereum.engine import connect_with
from engines.ethereum.options import EthereumOptions
from settled import ConfigError, Services, SettledError
from settled.cli import main
from settled.testing import MemoryStore
from tests.engines.ethereum.anvil import CHAIN_ID, Chain
from tests.engines.ethereum.bench import KEY, Bench

URL = "http://127.0.0.1:1"
GOOD: dict[str, Any] = {"rpc_url": URL, "chain_id": 1, "key": KEY}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rpc_url": "127.0.0.1:8545"}, "rpc_url must be an http or https URL"),
        ({"rpc_url_2": "ws://127.0.0.1"}, "rpc_url_2 must be an http or https URL"),
        ({"rpc_url": "http://[::1"}, "rpc_url must be an http or https URL"),
        ({"rpc_url": "http://a..b"}, "rpc_url must be an http or https URL"),
        ({"rpc_url": "http://node/a\tb"}, "rpc_url must be an http or https URL"),
        ({"rpc_url": "http://node/a b"}, "rpc_url must be an http or https URL"),
        ({"keystore": Path("k.json")}, "one of key .* and keystore, not both"),
        ({"key": None, "keystore": Path("k.json")}, "a keystore needs keystore_password"),
        ({"token": "0x12"}, "token must be an address"),
        ({"max_fee_gwei": Decimal(0)}, "max_fee_gwei must be more than 0"),
        ({"max_credit": Decimal(0)}, "max_credit must be more than 0"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        EthereumOptions(**(GOOD | change))


def test_the_key_is_in_no_repr() -> None:
    assert KEY not in repr(EthereumOptions(**GOOD))


async def start(options: EthereumOptions, store: MemoryStore | None = None) -> Any:
    """Connect the engine, end it, and return what it was."""
    async with trio.open_nursery() as nursery:
        services = Services(store or MemoryStore(), cast(Any, None), nursery)
        async with cast(Any, create_engine(options)(services)) as engine:
            nursery.cancel_scope.cancel()
            return engine


def options_for(chain: Chain, **options: Any) -> EthereumOptions:
    return EthereumOptions(rpc_url=chain.url, chain_id=CHAIN_ID, key=KEY, **options)


async def refused(
    options: EthereumOptions,
    reason: str,
    store: MemoryStore | None = None,
    *,
    exit_code: int = ConfigError.exit_code,
) -> None:
    """See that a start is refused, in one line."""
    try:
        await start(options, store)
    except* SettledError as errors:
        (error,) = errors.exceptions
        with pytest.raises(SettledError, match=reason):
            raise error from None
        assert "\n" not in str(error)
        assert cast(SettledError, error).exit_code == exit_code
    else:
        pytest.fail("it started")


async def test_the_asset_scale_is_that_of_ether_or_of_the_token(chain: Chain) -> None:
    assert (await start(options_for(chain))).asset_scale == 18
    token = await chain.deploy_token(6)
    for written in (token, "0x" + token[2:].upper()):
        assert (await start(options_for(chain, token=written))).asset_scale == 6


async def test_without_a_node_it_does_not_start() -> None:
    reason = "node http://127.0.0.1:1 cannot be used.*start it"
    await refused(EthereumOptions(**GOOD), reason, exit_code=1)  # it may pass


async def test_another_chain_is_refused(chain: Chain) -> None:
    await refused(replace(options_for(chain), chain_id=1), "is on chain 31337, not 1")


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("0x" + "12" * 20, "is no contract on this chain"),
        ("0x5FbDB2315678afecb367f032d93F642f64180aA4", "is mistyped"),
    ],
)
async def test_what_is_no_token_is_refused(chain: Chain, token: str, reason: str) -> None:
    await refused(options_for(chain, token=token), reason)


async def test_a_contract_that_is_no_token_is_refused(chain: Chain) -> None:
    contract = "0x" + "77" * 20
    await chain.rpc("anvil_setCode", contract, "0x60006000fd")
    await refused(options_for(chain, token=contract), r"is a contract without decimals\(\)")


async def test_a_database_of_another_key_chain_or_asset_is_refused(chain: Chain) -> None:
    store = MemoryStore()
    await start(options_for(chain), store)
    await start(options_for(chain), store)
    other = replace(options_for(chain), key="cd" * 32)
    await refused(other, "belongs to address 0x.*, and this is 0x.*: go back to that, or", store)
    token = await chain.deploy_token()
    await refused(
        options_for(chain, token=token), "belongs to the asset ether, and this is 0x", store
    )
    state = Services(store, cast(Any, None), cast(Any, None)).state
    kept = await state.get("wallet")
    await state.set("wallet", kept | {"genesis": "0x" + "99" * 32})
    await refused(options_for(chain), "belongs to a chain that begins with block 0x9999", store)
    await state.set("wallet", kept | {"genesis": None})  # no node had it then
    await start(options_for(chain), store)


@pytest.fixture
def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("engines.ethereum.")]:
        monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr(engines.ethereum, name.rpartition(".")[2])
    monkeypatch.setitem(sys.modules, "eth_account", None)


@pytest.mark.usefixtures("without_the_extra")
def test_what_is_to_be_installed_is_told() -> None:
    with pytest.raises(ConfigError, match=r"pip install '\.\[ethereum\]'"):
        create_engine(EthereumOptions(**GOOD))


def test_without_a_key_it_is_not_made() -> None:
    with pytest.raises(ConfigError, match="no key: give -o key_file=PATH, or -o keystore=PATH"):
        create_engine(EthereumOptions(**(GOOD | {"key": None})))


async def test_a_signer_of_ones_own_takes_the_place_of_the_key(chain: Chain) -> None:
    signer, store = await chain.signer(), MemoryStore()
    connect = connect_with(replace(options_for(chain), key=None), signer=signer)
    async with trio.open_nursery() as nursery:
        services = Services(store, cast(Any, None), nursery)
        async with cast(Any, connect(services)):
            nursery.cancel_scope.cancel()
    assert (await services.state.get("wallet"))["address"] == signer.address


async def test_a_payment_of_before_is_watched_from_the_start(chain: Chain) -> None:
    bench = Bench(chain, await chain.signer(), confirmations=1)
    await bench.add_peer()
    await chain.automine(False)
    async with bench.engine() as sender, trio.open_nursery() as nursery:
        nursery.start_soon(sender.settle, "bob", Decimal(1), "s1")
        await bench.wait_pool()
        nursery.cancel_scope.cancel()
    await chain.mine(1)
    async with bench.engine():
        with trio.fail_after(5):
            while (await bench.kept())[0].settled != 1:  # noqa: ASYNC110
                await trio.sleep(0.01)


def checked(*args: str) -> tuple[int, str]:
    """Return the exit code of `settled check`, and what it finds of the engine."""
    result = CliRunner().invoke(
        main,
        ["check", "--no-connector", "--engine", "ethereum", "--json", "--listen", "127.0.0.1:0"]
        + [part for arg in (f"rpc_url={URL}", "chain_id=1", *args) for part in ("-o", arg)],
    )
    (finding,) = (row for row in json.loads(result.stdout) if row["check"] == "engine")
    return result.exit_code, f"{finding['status']} {finding['what']}"


def test_a_check_tries_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    key, password, keystore = (tmp_path / name for name in ("key", "password", "keystore"))
    keystore.write_text(json.dumps(Account.encrypt(bytes.fromhex(KEY), "secret", iterations=2)))
    kept = (f"keystore={keystore}", f"keystore_password_file={password}")
    for file, content, args, found in (
        (key, KEY, (f"key_file={key}",), "OK"),
        (key, "cafe", (f"key_file={key}",), "the key is no private key"),
        (password, "secret", kept, "OK"),
        (password, "Secret", kept, "wrong password"),
    ):
        file.write_text(content)
        file.chmod(0o600)
        code, said = checked(*args)
        assert found in said
        assert code == (found != "OK")
        assert content not in said
    assert "no key" in checked()[1]


def test_the_key_of_a_node_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETTLED_OPTION_RPC_URL", "https://us:pa55word@node.example/v3/4p1k3y")
    monkeypatch.setenv("SETTLED_OPTION_RPC_URL_2", "https://spare.example/?key=4p1k3y")
    for command, *more in (("config", "show"), ("check", "--no-connector")):
        args = [command, *more, "--engine", "ethereum", "-o", "chain_id=1", "--json"]
        shown = CliRunner().invoke(main, args).stdout
        assert "4p1k3y" not in shown
        assert "pa55word" not in shown
        if command == "config":
            assert '"https://concealed@node.example/concealed"' in shown
            assert '"https://spare.example/concealed"' in shown
