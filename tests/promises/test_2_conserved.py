"""Promise 2: requested = queued + in flight + unknown + settled, exactly, at every instant."""

import random
from decimal import Decimal

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from settled import NotSettled, limits
from settled.amounts import Quantity, checked, floor, from_text, to_text
from settled.errors import InvalidAmount
from tests.harness import ScriptedEngine, conserved, memory_store, running, sum_exactly

scales = st.integers(0, limits.SCALE_MAX)
quantities = st.builds(
    Quantity,
    st.integers(1, 10**6).map(str) | st.integers(1, 10**1000).map(str),
    scales | st.just(0),
)


@given(quantities)
def test_a_quantity_survives_the_way_to_decimal_and_back(quantity: Quantity) -> None:
    value = quantity.value
    back = Quantity.of(value)
    assert back.value == value
    assert back.scale <= quantity.scale, "the smallest scale that is exact"
    assert Decimal(to_text(value)) == value
    assert "E" not in to_text(value)


@given(st.integers(0, 10**1000), scales)
def test_the_value_is_exact_at_every_scale(amount: int, scale: int) -> None:
    value = Quantity(str(amount), scale).value
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    whole = int("".join(map(str, digits)))
    assert (sign, whole * 10 ** (scale + exponent)) == (0, amount)


@given(quantities, scales)
def test_flooring_loses_less_than_one_unit(quantity: Quantity, scale: int) -> None:
    value = quantity.value
    down = floor(value, scale)
    rest = sum_exactly((value, down.copy_negate()))
    assert 0 <= rest < Decimal(1).scaleb(-scale)
    assert Quantity.of(down).scale <= scale


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1e3", "1_000", "٣", " 1", "1 ", ".5", "5.", "NaN", "0x1", "1" * 1025]
)
def test_what_an_operator_mistypes_is_refused(text: str) -> None:
    with pytest.raises(InvalidAmount):
        from_text(text)


@pytest.mark.parametrize("value", [1.5, "1", None, True, Decimal("sNaN"), Decimal("-0.1"), b"1"])
def test_what_an_engine_returns_must_be_an_exact_amount(value: object) -> None:
    with pytest.raises(InvalidAmount):
        checked(value)


@settings(max_examples=60, deadline=None, print_blob=True)
@given(
    requests=st.lists(quantities, min_size=1, max_size=5),
    excess=quantities,
    asset_scale=st.none() | st.integers(0, 20),
    seed=st.integers(0, 2**32),
)
def test_whatever_engines_answer_every_amount_is_accounted_for(
    requests: list[Quantity], excess: Quantity, asset_scale: int | None, seed: int
) -> None:
    """Less, more, nothing, not settled, unknown: the books add up after each step."""
    rng = random.Random(seed)

    async def settle(account_id: str, amount: Decimal, settlement_id: str) -> object:
        match rng.choice(["all", "less", "more", "zero", "no", "boom"]):
            case "all":
                return amount
            case "less":
                return floor(amount, rng.randint(0, 3))
            case "more":
                return sum_exactly((amount, excess.value))
            case "zero":
                return 0
            case "no":
                raise NotSettled("no")
        raise RuntimeError("boom")

    async def find(account_id: str, settlement_id: str) -> object:
        return rng.choice([None, 0, 1, Decimal("0.1")])

    async def main() -> None:
        engine = ScriptedEngine(settle, find_settlement=find, asset_scale=asset_scale)
        store = memory_store()
        await store.open_account("alice", setup=False)
        async with running(engine, store) as daemon:
            for n, quantity in enumerate(requests):
                await daemon.request("alice", quantity.amount, f"k{n}", quantity.scale)
                await daemon.rest()
                await conserved(store)
                await trio.sleep(rng.randint(0, 3))
                await conserved(store)
        account = await store.account("alice")
        assert account.requested == sum_exactly(tuple(quantity.value for quantity in requests))
        paid = tuple(settlement.settled for settlement in await store.settlements())
        assert account.settled == sum_exactly(paid)

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_what_is_settled_above_the_amount_asked_is_kept_as_a_negative_queue(
    autojump_clock: MockClock,
) -> None:
    async def round_up(account_id: str, amount: Decimal, settlement_id: str) -> object:
        return amount + 3 if len(engine.calls) == 1 else amount

    engine, store = ScriptedEngine(round_up), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "10", "k1")
        account = await daemon.until(lambda account: account.settled == 13)
        assert account.queued == -3
        await daemon.request("alice", "2", "k2")
        await trio.sleep(3600)
        assert len(engine.calls) == 1, "nothing is owed yet"
        await daemon.request("alice", "5", "k3")
        await daemon.until(lambda account: account.settled == 17)
    assert [amount for _, amount, _ in engine.calls] == [10, 4]
    assert (await store.account("alice")).queued == 0


async def test_amounts_finer_than_the_asset_scale_wait_for_more(autojump_clock: MockClock) -> None:
    engine, store = ScriptedEngine(asset_scale=2), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "10129", "k1", scale=3)
        account = await daemon.until(lambda account: account.settled == Decimal("10.12"))
        await trio.sleep(3600)
        account = await store.account("alice")
        assert account.queued == Decimal("0.009")
        assert "finer than asset scale 2" in (account.waiting or "")
        await daemon.request("alice", "1", "k2", scale=3)
        await daemon.until(lambda account: account.settled == Decimal("10.13"))
    assert [amount for _, amount, _ in engine.calls] == [Decimal("10.12"), Decimal("0.01")]


async def test_the_leftover_of_a_partial_settlement_is_tried_at_once_then_rests(
    autojump_clock: MockClock,
) -> None:
    async def whole_units_up_to_four(account_id: str, amount: Decimal, _: str) -> object:
        return min(floor(amount, 0), Decimal(4))

    engine, store = ScriptedEngine(whole_units_up_to_four), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "95", "k1", scale=1)
        account = await daemon.until(lambda account: account.settled == 9)
        await trio.sleep(30 * 86_400)
        asked = [to_text(amount) for _, amount, _ in engine.calls]
        assert asked == ["9.5", "5.5", "1.5", "0.5"]
        account = await store.account("alice")
        assert account.waiting == "the engine settled 0 of 0.5: it waits for more"
        await daemon.request("alice", "5", "k2", scale=1)
        await daemon.until(lambda account: account.settled == 10)
