"""A sample of ``make fuzz``."""

from pathlib import Path

import pytest

from tests.hostile.fuzz_api import fuzz
from tests.hostile.parsers import PARSERS, parse

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


def test_the_daemon_does_what_its_description_says(tmp_path: Path) -> None:
    options = ["--phases=fuzzing", "--no-shrink", "--suppress-health-check=all"]
    done = fuzz(15, tmp_path, *options, capture=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kept", CORPUS, ids=lambda path: path.name)
def test_the_parsers_take_what_was_found(kept: Path) -> None:
    parse(kept.read_bytes())


def test_each_parser_has_something_in_the_corpus() -> None:
    assert {kept.read_bytes()[0] % len(PARSERS) for kept in CORPUS} == set(range(len(PARSERS)))
