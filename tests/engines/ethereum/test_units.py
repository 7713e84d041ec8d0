"""Between decimals and whole units nothing is ever rounded."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.ethereum.units import (
    UINT256_MAX,
    gwei,
    gwei_to_wei,
    to_amount,
    to_text,
    to_units,
)

UNITS = st.integers(0, UINT256_MAX)
DECIMALS = st.integers(0, 255)


@given(UNITS, DECIMALS)
def test_units_survive_the_way_there_and_back(units: int, decimals: int) -> None:
    assert to_units(to_amount(units, decimals), decimals) == units
    assert to_units(Decimal(to_text(units, decimals)), decimals) == units


@given(UNITS, DECIMALS)
def test_an_amount_is_what_whole_numbers_say(units: int, decimals: int) -> None:
    numerator, denominator = to_amount(units, decimals).as_integer_ratio()
    assert numerator * 10**decimals == units * denominator


@pytest.mark.parametrize(
    ("amount", "decimals"),
    [("0.5", 0), ("1E-19", 18), ("-1", 18), ("1.0000001", 6), (str(2**256), 0)],
)
def test_what_is_no_amount_of_the_asset_is_refused(amount: str, decimals: int) -> None:
    with pytest.raises(ValueError, match=f"with {decimals} decimals"):
        to_units(Decimal(amount), decimals)


def test_whole_amounts_may_be_written_in_any_form() -> None:
    assert to_units(Decimal("1.500"), 1) == 15
    assert to_units(Decimal("1E+2"), 3) == 100_000
    assert to_units(Decimal("115792089237316195423570985008687907853269984665640564039457.5"), 1)


@given(UNITS, DECIMALS)
def test_text_for_operators_is_plain(units: int, decimals: int) -> None:
    text = to_text(units, decimals)
    assert "E" not in text
    assert not (text.endswith("0") and "." in text)


def test_fees() -> None:
    assert gwei_to_wei(Decimal("1.5")) == 1_500_000_000
    assert gwei_to_wei(Decimal("0.0000000019")) == 1
    assert gwei(1_500_000_000) == "1.5 gwei"
    assert gwei(20 * 10**9) == "20 gwei"
