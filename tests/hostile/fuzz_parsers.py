"""``python -m tests.hostile.fuzz_parsers [SECONDS]``: atheris on ``parsers``, from ``corpus``.

New inputs, and one that breaks a parser, are left in ``.fuzz``.
"""

import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

CORPUS = Path(__file__).parent / "corpus"
FOUND = Path(".fuzz")

atheris.enabled_hooks.add("str")
with atheris.instrument_imports(include=["settled", "tests.hostile.parsers"]):
    from tests.hostile.parsers import parse


def main() -> None:
    seconds = sys.argv[1] if len(sys.argv) > 1 else "600"
    FOUND.mkdir(exist_ok=True)
    options = [f"-max_total_time={seconds}", "-max_len=4096", f"-artifact_prefix={FOUND}/"]
    atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", str(FOUND), str(CORPUS)], parse)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
