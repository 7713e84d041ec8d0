"""Amounts: exact decimals in the asset's standard unit, and the Quantity of RFC 0038.

Nothing here rounds silently: every result that would lose a digit raises.
"""

import re
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Final

from settled import limits
from settled.errors import InvalidAmount

# Wide enough for sums of the largest amounts at the finest scale; traps whatever would not fit.
EXACT: Final = Context(prec=8192, traps=[Inexact, InvalidOperation, Overflow])

ZERO: Final = Decimal(0)

_DIGITS: Final = re.compile(r"[0-9]+", re.ASCII)
_DECIMAL: Final = re.compile(r"([0-9]+)(?:\.([0-9]+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Quantity:
    """An amount as it goes over the wire: ``amount`` whole units of 10^-``scale``.

    See RFC 0038, "Units and quantities". ``amount`` keeps the text as it was sent.

    Args:
        amount: 1 to 1,024 ASCII digits.
        scale: 0 to 255.

    Raises:
        InvalidAmount: when either breaks its range.

    Example::

        >>> Quantity("150", 2).value
        Decimal('1.50')
        >>> Quantity.of(Decimal("1.50"))
        Quantity(amount='15', scale=1)
    """

    amount: str
    scale: int

    def __post_init__(self) -> None:
        if not isinstance(self.amount, str) or not _DIGITS.fullmatch(self.amount):
            raise InvalidAmount('"amount" must be a string of digits, like "1500"')
        if len(self.amount) > limits.AMOUNT_DIGITS_MAX:
            raise InvalidAmount(f'"amount" may have {limits.AMOUNT_DIGITS_MAX} digits at most')
        if type(self.scale) is not int or not 0 <= self.scale <= limits.SCALE_MAX:
            raise InvalidAmount(f'"scale" must be a whole number from 0 to {limits.SCALE_MAX}')

    @property
    def value(self) -> Decimal:
        """The amount in the standard unit."""
        return Decimal(self.amount).scaleb(-self.scale, EXACT)

    @classmethod
    def of(cls, value: Decimal) -> "Quantity":
        """Return the Quantity of ``value`` at the smallest scale that is exact.

        Raises:
            InvalidAmount: when it is negative, or needs more digits or scale than a Quantity has.
        """
        whole, _, fraction = to_text(value).partition(".")
        return cls((whole + fraction).lstrip("0") or "0", len(fraction))


def to_text(value: Decimal) -> str:
    """Return the one canonical text of ``value``: no exponent, no needless zero.

    Example::

        >>> to_text(Decimal("1.50")), to_text(Decimal("2E+3")), to_text(Decimal("-0"))
        ('1.5', '2000', '0')
    """
    text = str(value)
    if "E" in text or "e" in text:  # as the context of the thread has it
        text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def from_text(text: str) -> Decimal:
    """Return the amount that an operator typed, such as ``12.50``.

    Raises:
        InvalidAmount: unless it is digits with at most one point, within the limits.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise InvalidAmount(f"{text[:50]!r} is not an amount: write digits, like 12.50")
    return checked(Decimal(text))


def checked(value: object) -> Decimal:
    """Return ``value``, which came from outside, as an exact amount of zero or more.

    Raises:
        InvalidAmount: for anything but an ``int`` or finite ``Decimal`` within the limits; a float
            above all, since it is not exact.
    """
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise InvalidAmount(f"an amount must be a Decimal, not {type(value).__name__}")
    amount = Decimal(value)
    if not amount.is_finite():
        raise InvalidAmount(f"{amount} is not an amount")
    if amount < 0:
        raise InvalidAmount("an amount cannot be negative")
    # Before anything writes the digits out: 1E+999999 would be a megabyte of zeros.
    if amount and amount.adjusted() >= limits.AMOUNT_DIGITS_MAX:
        raise InvalidAmount(f"an amount may have {limits.AMOUNT_DIGITS_MAX} digits at most")
    _, digits, exponent = amount.as_tuple()
    if amount and exponent == 0 and len(digits) <= limits.AMOUNT_DIGITS_MAX:
        return amount  # whole, and as a Quantity would write it
    if isinstance(exponent, int) and exponent < -limits.SCALE_MAX - limits.AMOUNT_DIGITS_MAX:
        raise InvalidAmount(f"an amount may have {limits.SCALE_MAX} decimals at most")
    return Quantity.of(amount).value


def floor(value: Decimal, scale: int | None) -> Decimal:
    """Return ``value`` rounded down to ``scale`` decimals (``None``: as it is).

    Example::

        >>> floor(Decimal("10.129"), 2)
        Decimal('10.12')
    """
    if scale is None:
        return value
    step = Decimal(1).scaleb(-scale, EXACT)
    # Inexact is the point here, so this one operation runs with the trap off.
    return value.quantize(step, ROUND_FLOOR, Context(prec=EXACT.prec))


def payable(value: Decimal, scale: int | None) -> Decimal:
    """Return the part of ``value`` (zero or more) that one settlement can carry.

    That is ``value`` rounded down to ``scale`` decimals, and to the digits of a Quantity: what is
    netted can be longer than any single request.
    """
    whole_digits = max(value.adjusted() + 1, 1)
    if whole_digits > limits.AMOUNT_DIGITS_MAX:
        return EXACT.subtract(Decimal(1).scaleb(limits.AMOUNT_DIGITS_MAX, EXACT), Decimal(1))
    widest = min(limits.AMOUNT_DIGITS_MAX - whole_digits, limits.SCALE_MAX)
    return floor(value, widest if scale is None else min(scale, widest))
