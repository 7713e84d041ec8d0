"""Between the chain's whole units (wei) and exact decimals of the asset's standard unit (ether)."""

from decimal import Decimal
from typing import Final

ETHER_DECIMALS: Final = 18
UINT256_MAX: Final = 2**256 - 1
_GWEI_DECIMALS: Final = 9


def to_units(amount: Decimal, decimals: int) -> int:
    """Return ``amount`` in the asset's smallest units.

    Raises:
        ValueError: when that is no whole number, or no number from 0 to 2**256 - 1.

    Example::

        >>> to_units(Decimal("1.5"), 18)
        1500000000000000000
    """
    numerator, denominator = amount.as_integer_ratio()
    units, rest = divmod(numerator * int(10**decimals), denominator)
    if rest or not 0 <= units <= UINT256_MAX:
        raise ValueError(f"{amount:f} is no amount of an asset with {decimals} decimals")
    return units


def to_amount(units: int, decimals: int) -> Decimal:
    """Return so many of the asset's smallest units as a decimal, exactly.

    Example::

        >>> to_amount(1_500_000_000_000_000_000, 18)
        Decimal('1.5')
    """
    digits = f"{units:0{decimals + 1}d}"  # arithmetic on decimals would round it
    whole, fraction = digits[: len(digits) - decimals], digits[len(digits) - decimals :]
    return Decimal(f"{whole}.{fraction}".rstrip("0").rstrip("."))


def to_text(units: int, decimals: int) -> str:
    """Return so many smallest units as an operator reads them: no exponent, no zeros at the end."""
    return f"{to_amount(units, decimals):f}"


def gwei_to_wei(fee: Decimal) -> int:
    """Return a fee in wei, rounded down: less than a wei cannot be paid."""
    numerator, denominator = fee.as_integer_ratio()
    return int(numerator * 10**_GWEI_DECIMALS // denominator)


def gwei(fee: int) -> str:
    """Return a fee in wei as text in gwei."""
    return f"{to_text(fee, _GWEI_DECIMALS)} gwei"
