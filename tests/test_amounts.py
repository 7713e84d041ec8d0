"""Amounts and ids: one text for each value, and exactly where the limits are."""

import doctest
from decimal import Decimal, localcontext

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from settled import amounts, ids, limits
from settled.amounts import EXACT, Quantity, checked, floor, from_text, payable, to_text
from settled.errors import InvalidAmount, InvalidId

DIGITS = limits.AMOUNT_DIGITS_MAX
SCALE = limits.SCALE_MAX
LONGEST = 10**DIGITS - 1


def test_the_examples_are_right() -> None:
    failed, tried = doctest.testmod(amounts)
    assert (failed, tried > 3) == (0, True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0"),
        ("-0", "0"),
        ("-0.00", "0"),
        ("0E+5", "0"),
        ("100", "100"),
        ("1E+3", "1000"),
        ("-1.50", "-1.5"),
        ("0.0100", "0.01"),
        ("1E-3", "0.001"),
    ],
)
def test_each_value_has_one_text(value: str, text: str) -> None:
    assert to_text(Decimal(value)) == text
    if not text.startswith("-"):
        assert to_text(checked(Decimal(value))) == text
        assert Quantity.of(Decimal(value)).value == Decimal(value)


@pytest.mark.parametrize(
    ("amount", "scale"), [("0", 0), ("9" * DIGITS, 0), ("9" * DIGITS, SCALE), ("0" * DIGITS, SCALE)]
)
def test_a_quantity_up_to_its_limits(amount: str, scale: int) -> None:
    quantity = Quantity(amount, scale)
    assert quantity.value == EXACT.divide(Decimal(amount), Decimal(10**scale))
    assert checked(quantity.value) == quantity.value


@pytest.mark.parametrize(
    ("amount", "scale"),
    [
        ("", 0),
        ("1" * (DIGITS + 1), 0),
        ("-1", 0),
        ("1.0", 0),
        ("\u0661", 0),
        ("1\n", 0),
        (1, 0),
        (b"1", 0),
        (None, 0),
        ("1", -1),
        ("1", SCALE + 1),
        ("1", True),
        ("1", "2"),
        ("1", 2.0),
        ("1", None),
    ],
)
def test_what_is_no_quantity_is_refused(amount: object, scale: object) -> None:
    with pytest.raises(InvalidAmount):
        Quantity(amount, scale)  # type: ignore[arg-type]


def test_a_quantity_of_an_amount_has_no_needless_digit() -> None:
    for value, amount, scale in (("0.050", "5", 2), ("0", "0", 0), ("500", "500", 0)):
        assert Quantity.of(Decimal(value)) == Quantity(amount, scale)


def test_what_a_quantity_can_carry_and_no_more_is_an_amount() -> None:
    for value in (LONGEST, Decimal(LONGEST).scaleb(-SCALE, EXACT), Decimal(1).scaleb(-SCALE)):
        assert checked(value) == value
    assert checked(Decimal("1." + "0" * 1000)) == 1, "zeros need no digits"
    assert checked(Decimal("0E+5000")) == 0
    for value in (LONGEST + 1, Decimal(1).scaleb(-SCALE - 1), Decimal(LONGEST) + Decimal("0.1")):
        with pytest.raises(InvalidAmount):
            checked(value)


@pytest.mark.parametrize("text", ["1E+999999999999999999", "1E-999999999999999999"])
def test_an_amount_that_would_fill_the_memory_is_refused_before_it_is_written_out(
    text: str,
) -> None:
    with pytest.raises(InvalidAmount):
        checked(Decimal(text))


@pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity", "-Infinity", "-1", "-1E-300"])
def test_what_is_no_number_of_zero_or_more_is_refused(value: str) -> None:
    with pytest.raises(InvalidAmount):
        checked(Decimal(value))


def test_an_operator_types_digits_with_one_point() -> None:
    assert [from_text(text) for text in ("0", "007.50", "12")] == [0, Decimal("7.5"), 12]
    for text in ("1\n", "1.2.3", "1.", ".1", "1 000", "1,5", "1." + "1" * (SCALE + 1)):
        with pytest.raises(InvalidAmount):
            from_text(text)


@given(
    st.builds(
        lambda whole, scale: Decimal(whole).scaleb(-scale, EXACT),
        st.integers(0, 10**1500),
        st.integers(0, 1000),
    ),
    st.none() | st.integers(0, SCALE),
)
@example(Decimal(LONGEST), None)
@example(EXACT.add(Decimal(LONGEST), Decimal("0.9")), 2)
@example(Decimal(LONGEST + 1), None)
@example(Decimal(10 ** (DIGITS - 1)), 0)
@example(Decimal("0." + "9" * SCALE), None)
@example(Decimal("1" * 1000 + "." + "1" * 100), None)
@example(Decimal("1" * 1000 + "." + "1" * 100), 10)
@example(Decimal("0.5"), 0)
@example(Decimal(0), None)
def test_what_one_settlement_can_carry(queued: Decimal, scale: int | None) -> None:
    """It is never more than is queued, and the most that a Quantity of that scale can say."""
    amount = payable(queued, scale)
    quantity = Quantity.of(amount)
    assert amount <= queued
    assert scale is None or quantity.scale <= scale
    finest = min(SCALE if scale is None else scale, DIGITS - len(str(int(amount))))
    more = EXACT.add(amount, Decimal(1).scaleb(-finest, EXACT))
    assert more > queued or amount == LONGEST


def test_rounding_down_keeps_what_is_exact_already() -> None:
    value = Decimal("10.129")
    assert floor(value, None) is value
    assert [floor(value, scale) for scale in (0, 1, 2, 3, 255)] == [
        *(Decimal(text) for text in ("10", "10.1", "10.12", "10.129", "10.129"))
    ]


@pytest.mark.parametrize("check", [ids.check_key, ids.check_settlement_id, ids.check_account_id])
def test_where_the_limits_of_an_id_are(check: object) -> None:
    assert callable(check)
    for good in ("x", "~", "0", "x" * 255):
        assert check(good) == good
    for bad in ("", "x" * 256, "\u0661", "x\n", "\x7f", " x", "x ", None, 5, b"x", ["x"]):
        with pytest.raises(InvalidId):
            check(bad)


def test_a_key_and_a_settlement_id_may_have_spaces_within() -> None:
    for check in (ids.check_key, ids.check_settlement_id):
        assert [check(text) for text in ("a b", "!~")] == ["a b", "!~"]
    for bad in (".", "..", "a b", "a:b", "a/b"):
        with pytest.raises(InvalidId):
            ids.check_account_id(bad)


@pytest.mark.parametrize("text", ["1E-9", "1.50E-10", "2E+30", "0E-9", "-1.5E-8"])
def test_the_text_does_not_depend_on_the_context_of_others(text: str) -> None:
    """A library may have exponents written small in all the process."""
    value = Decimal(text)
    expected = to_text(value)
    assert "e" not in expected.lower()
    with localcontext() as context:
        context.capitals = 0
        context.prec = 3
        assert to_text(value) == expected
