"""What is said to a token and read from it, beside what a library of the field makes of it."""

import os
from typing import Any

import pytest
from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from engines.ethereum import abi
from engines.ethereum.units import UINT256_MAX

ADDRESSES = st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex())
VALUES = st.integers(0, UINT256_MAX)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)


def selector(signature: str) -> str:
    return "0x" + keccak(text=signature)[:4].hex()


@given(ADDRESSES, VALUES)
def test_a_transfer_is_what_the_library_encodes(recipient: str, value: int) -> None:
    expected = encode(["address", "uint256"], [recipient, value]).hex()
    assert abi.transfer_call(recipient, value) == selector("transfer(address,uint256)") + expected


@given(ADDRESSES)
def test_a_question_for_a_balance_is_what_the_library_encodes(owner: str) -> None:
    expected = selector("balanceOf(address)") + encode(["address"], [owner]).hex()
    assert abi.balance_call(owner) == expected


def test_the_names_are_hashed_right() -> None:
    assert selector("decimals()") == abi.DECIMALS_CALL
    assert "0x" + keccak(text="Transfer(address,address,uint256)").hex() == abi.TRANSFER_TOPIC


@given(VALUES)
def test_a_number_is_read_as_the_library_reads_it(value: int) -> None:
    raw = encode(["uint256"], [value])
    assert abi.read_uint("0x" + raw.hex()) == decode(["uint256"], raw)[0]


def log_of(sender: str, recipient: str, value: int) -> dict[str, Any]:
    topics = [abi.TRANSFER_TOPIC, abi.address_topic(sender), abi.address_topic(recipient)]
    return {"topics": topics, "data": f"0x{value:064x}"}


@given(ADDRESSES, ADDRESSES, VALUES)
def test_a_transfer_log_is_read(sender: str, recipient: str, value: int) -> None:
    found = abi.read_transfer(log_of(sender, recipient, value))
    assert found == abi.Transfer(sender, recipient, value)


A, B = "0x" + "a1" * 20, "0x" + "b2" * 20


@pytest.mark.parametrize(
    "change",
    [
        {"topics": [abi.TRANSFER_TOPIC, abi.address_topic(A)]},
        # An ERC-721 token: the fourth topic is the thing's number.
        {"topics": [*log_of(A, B, 1)["topics"], "0x" + "00" * 32]},
        {"topics": ["0x" + "00" * 32, *log_of(A, B, 1)["topics"][1:]]},
        {"topics": [abi.TRANSFER_TOPIC, "0x" + "ff" * 32, abi.address_topic(B)]},
        {"data": "0x"},
        {"data": "0x" + "00" * 64},
        {"data": None},
        {"topics": None},
    ],
)
def test_other_logs_are_none(change: dict[str, Any]) -> None:
    assert abi.read_transfer(log_of(A, B, 1) | change) is None


@given(JSON)
def test_nothing_that_a_node_says_is_taken_on_trust(value: Any) -> None:
    assert abi.read_transfer(value) is None
    assert abi.read_transfer({"topics": value, "data": value}) is None
    assert abi.says_true(value) is (value == "0x")
    for read in (abi.address, abi.hash32, abi.read_uint):
        with pytest.raises(ValueError, match="not a"):
            read(value)


def test_addresses_and_hashes_have_one_form() -> None:
    assert abi.address("0x" + "Ab" * 20) == "0x" + "ab" * 20
    assert abi.hash32("0x" + "Ab" * 32) == "0x" + "ab" * 32
    for bad in ("ab" * 20, "0x" + "ab" * 19, "0x" + "ab" * 20 + "\n", "0X" + "ab" * 20, None):
        with pytest.raises(ValueError, match="not an address"):
            abi.address(bad)


@given(st.integers(0, UINT256_MAX))
def test_quantities(value: int) -> None:
    assert abi.number(hex(value)) == value


@pytest.mark.parametrize("bad", ["0x", "12", "0x" + "f" * 65, 12, None, "0xg", "0x1 ", "-0x1"])
def test_what_is_no_quantity_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        abi.number(bad)


def test_a_token_says_true_with_a_word_or_with_nothing() -> None:
    assert abi.says_true("0x")
    assert abi.says_true(f"0x{1:064x}")
    assert not abi.says_true(f"0x{0:064x}")
    assert not abi.says_true("0x01")
    assert not abi.says_true("0x" + os.urandom(31).hex())
