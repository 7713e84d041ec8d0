"""What ends a benchmark; its text is one line that says what to do."""


class BenchmarkError(Exception):
    """Something is missing, or a side did not do what it must: then no figure counts."""
