"""A sample of the random kills and stops; ``make crashes`` makes hundreds."""

from pathlib import Path

from tests.crashes.stopping import kill_at_random, stop_at_random


async def test_killed_at_random_moments_the_books_of_all_sides_are_equal(tmp_path: Path) -> None:
    report = await kill_at_random(
        tmp_path, kills=4, settlements=200, seed=3, progress=lambda _text: None
    )
    assert report.ends == 4
    assert report.settlements == 200
    assert report.requests > 200 * 1.3


async def test_stopped_at_random_moments_it_ends_in_order(tmp_path: Path) -> None:
    report = await stop_at_random(
        tmp_path, stops=2, settlements=100, seed=4, progress=lambda _text: None
    )
    assert report.ends == 2
