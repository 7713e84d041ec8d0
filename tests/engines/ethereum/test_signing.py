"""Signing: what is signed is what was asked for, and a key never shows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from engines.ethereum.abi import is_address
from engines.ethereum.accounts import Account
from engines.ethereum.signing import (
    LocalSigner,
    Signature,
    open_keystore,
    recover_address,
)
from engines.ethereum.transactions import UnsignedTransaction
from settled import ConfigError

KEY = "380eb0f3d505f087e438eca80bc4df9a7faa24f868e69fc0440261a0fc0567dc"
ADDRESS = "0x3cdb3d9e1b74692bb1e3bb5fc81938151ca64b02"
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.mark.parametrize("key", [KEY, "0x" + KEY, KEY.upper(), f"  0x{KEY}\n"])
def test_a_key_may_be_written_as_wallets_write_it(key: str) -> None:
    assert LocalSigner(key).address == ADDRESS


@pytest.mark.parametrize(
    "key",
    [
        "",
        KEY[:-1],
        KEY + "0",
        "g" + KEY[1:],
        "0" * 64,
        f"{ORDER:064x}",
        "0x" * 2 + KEY,
        "\u0660" * 64,
    ],
)
def test_what_is_no_key_is_refused_and_never_shown(key: str) -> None:
    with pytest.raises(ConfigError, match="64 hexadecimal digits") as caught:
        LocalSigner(key)
    assert not key or key not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_signer_does_not_show_its_key() -> None:
    shown = repr(LocalSigner(KEY))
    assert ADDRESS in shown
    assert KEY not in shown


async def test_a_transaction_is_signed_as_it_was_asked_for() -> None:
    asked = UnsignedTransaction(
        chain_id=31337,
        nonce=7,
        to="0x9b925641c5ef3fd86f63bff2da55a0deeafd1263",
        value=10**18 + 1,
        data=b"\xa9\x05",
        gas=21000,
        max_fee=200 * 10**9,
        max_priority_fee=10**9,
    )
    signed = await LocalSigner(KEY).sign_transaction(asked)
    assert signed.hash == "0x" + keccak(signed.raw).hex()
    assert Account.recover_transaction(signed.raw).lower() == ADDRESS
    again = await LocalSigner(KEY).sign_transaction(asked)
    assert again == signed


@given(st.binary(min_size=32, max_size=32))
async def test_the_signer_of_a_digest_can_be_told(digest: bytes) -> None:
    signature = await LocalSigner(KEY).sign_digest(digest)
    assert signature.v in {27, 28}
    assert recover_address(digest, signature) == ADDRESS
    mirrored = Signature(55 - signature.v, signature.r, ORDER - signature.s)
    assert recover_address(digest, mirrored) == ADDRESS


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(min_value=0, max_value=30),
    st.integers(min_value=0, max_value=2**256 - 1),
    st.integers(min_value=0, max_value=2**256 - 1),
)
def test_no_signature_of_a_stranger_does_more_than_fail(
    digest: bytes, v: int, r: int, s: int
) -> None:
    found = recover_address(digest, Signature(v, r, s))
    assert found is None or (is_address(found) and found != ADDRESS)


def test_a_keystore_is_opened_with_its_password_only(tmp_path: Path) -> None:
    path = tmp_path / "keystore.json"
    path.write_text(json.dumps(Account.encrypt(bytes.fromhex(KEY), "secret", iterations=2)))
    assert open_keystore(path, "secret").address == ADDRESS
    with pytest.raises(ConfigError, match="wrong password"):
        open_keystore(path, "Secret")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '"x"', '{"version": 3}', "[" * 60_000, "x" * 70_000, "\udcff"]
)
def test_what_is_no_keystore_is_told_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keystore.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match="keystore"):
        open_keystore(path, "secret")
    with pytest.raises(ConfigError, match="No such file"):
        open_keystore(tmp_path / "none.json", "secret")


def test_the_engine_leaves_the_recursion_limit_as_it_is() -> None:
    """With a higher one, a message that is nested deep enough overflows the stack."""
    code = (
        "import sys; before = sys.getrecursionlimit()\n"
        "import engines.ethereum.engine\n"
        "from engines.ethereum.proofs import Bad, decode\n"
        "assert sys.getrecursionlimit() == before\n"
        "try: decode(b'{\"binding\":' + b'[' * 16_000)\n"
        "except Bad: print('refused')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr
