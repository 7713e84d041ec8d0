"""``python -m tests.hostile.fuzz_parsers [SECONDS]``: atheris on ``parsers``, from ``corpus``.

New inputs, and one that breaks a parser, are left in ``.fuzz``.
"""

import sys
from pathlib import Path

import click

CORPUS = Path(__file__).parent / "corpus"
FOUND = Path(".fuzz")


@click.command()
@click.argument("seconds", type=click.IntRange(min=1), default=600)
def main(seconds: int) -> None:
    """Feed the parsers with mutations of the corpus for so many SECONDS."""
    try:
        import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ModuleNotFoundError:
        raise click.ClickException("atheris is not installed: `make fuzz` does that") from None
    atheris.enabled_hooks.add("str")
    with atheris.instrument_imports(include=["settled", "tests.hostile.parsers"]):
        from tests.hostile.parsers import parse

    FOUND.mkdir(exist_ok=True)
    options = [f"-max_total_time={seconds}", "-max_len=4096", f"-artifact_prefix={FOUND}/"]
    atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", str(FOUND), str(CORPUS)], parse)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
