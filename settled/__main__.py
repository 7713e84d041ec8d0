"""``python -m settled``: the same as the command ``settled``."""

from settled.cli import main

if __name__ == "__main__":
    main(prog_name="settled")
