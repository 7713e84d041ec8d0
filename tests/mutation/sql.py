"""What is changed in the text of SQL, where many of the store's rules stand.

A condition or an assignment is changed so that it keeps its parameters: ``x = ?`` becomes
``(x = ? OR TRUE)``. Whatever would only be a syntax error is left out.
"""

import re
from collections.abc import Iterator
from typing import Final

_KEYWORDS: Final = re.compile(
    r"\b(SELECT|INSERT|UPDATE|DELETE|CREATE|WHERE|PRAGMA|BEGIN|COMMIT|ROLLBACK|CHECK|GLOB|VALUES"
    r"|IS NULL|IS NOT NULL|NOT NULL|TRUE)\b|[=<>] \?|^\"\('"
)

_OPERAND: Final = r"(?:[\w.:]+|\?|'[^']*'|\((?:[^()]|\([^()]*\))*\))"
# Where a comparison is a condition and not an assignment: after one of these words.
_CONDITION: Final = rf"(?:(?<=WHERE )|(?<=AND )|(?<=ON )|(?<=OR )|(?<=^\"))({_OPERAND})"

# What is found, and what it becomes; a group that is called "keep" stands in both.
_RULES: Final = tuple(
    (re.compile(pattern, re.MULTILINE), new)
    for pattern, new in (
        (rf"{_CONDITION}( (?:=|<>|<=|>=|<|>) {_OPERAND})", r"(\1\2 OR TRUE)"),
        (rf"{_CONDITION}( IS (?:NOT )?NULL)", r"(\1\2 OR TRUE)"),
        (
            rf"{_CONDITION}( (?:NOT )?IN (?:\([^()]*(?:\([^()]*\)[^()]*)?\)|\{{OPEN\}}))",
            r"(\1\2 OR TRUE)",
        ),
        (rf"{_CONDITION}( (?:NOT )?(?:LIKE|GLOB) '[^']*')", r"(\1\2 OR TRUE)"),
        (rf"(?<=WHERE )({_OPERAND}) = ", r"\1 <> "),
        (rf"(?<=AND )({_OPERAND}) = ", r"\1 <> "),
        (r" < ", " <= "),
        (r" <= ", " < "),
        (r" > ", " >= "),
        (r" >= ", " > "),
        (r" <> ", " = "),
        (r" IS NULL", " IS NOT NULL"),
        (r" IS NOT NULL", " IS NULL"),
        (r" NOT (?=IN|LIKE|GLOB)", " "),
        (r" AND (?!\w+ BETWEEN)", " OR "),
        (r" OR (?!IGNORE|REPLACE)", " AND "),
        (r" DESC\b", ""),
        (r"(ORDER BY [\w., ]*\w)(?<! DESC)(?=\"| LIMIT|$)", r"\1 DESC"),
        (r" ORDER BY [\w., ]+\w(?=\"| LIMIT|$)", ""),
        (r"LIMIT (\?|:\w+|1\b)", r"LIMIT \1 + 1"),
        (r"\bDISTINCT ", ""),
        (r"UNION ALL", "UNION"),
        (r"UNION (?!ALL)", "UNION ALL "),
        # assignments
        (r"(?<=SET )(\w+) = ([^,\"]*?)(?=,|\"| WHERE|$)", r"\1 = iif(TRUE, \1, \2)"),
        (r"(?<=[?'0-9L], )(\w+) = ([^,\"]*?)(?=,|\"| WHERE|$)", r"\1 = iif(TRUE, \1, \2)"),
        (r"^(\s*\")(\w+) = (\?)(?=,|\"| WHERE|$)", r"\1\2 = iif(TRUE, \2, \3)"),
        (r" \+ (?=[\w?])", " - "),
        (r" - (?=[\w?])", " + "),
        (r"DO UPDATE SET .*(?=\")", "DO NOTHING"),
        # constraints
        (r"CREATE UNIQUE INDEX", "CREATE INDEX"),
        (r" UNIQUE(?=,)", ""),
        (r",\s*UNIQUE \([^)]*\)", ""),
        (r"(?<!IS) NOT NULL", ""),
        (r" CHECK \((?:[^()]|\([^()]*\))*\)", ""),
        (r"\s+CHECK \((?:[^()]|\([^()]*\))*\)(?=,)", ""),
        (r" REFERENCES \w+ \(\w+\)", ""),
        (r"\) STRICT", ")"),
        (r"\bABORT\b", "IGNORE"),
        # transactions and pragmas
        (r"BEGIN IMMEDIATE", "BEGIN"),
        (r"(journal_mode) = WAL", r"\1 = DELETE"),
        (r"(synchronous) = FULL", r"\1 = NORMAL"),
        (r" = ON\b", " = OFF"),
        # values
        (r"(?<![\w.'])([0-9]+)(?![\w.'\]])", "0"),
        (r"'([a-z_]+)'", "'mutant'"),
        (r"'0'", "'1'"),
    )
)


def looks_like(text: str) -> bool:
    """Return whether the source text of a string is SQL."""
    return _KEYWORDS.search(text) is not None


def mutations(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the changes of an SQL string: from where to where, and what it becomes."""
    for pattern, new in _RULES:
        for found in pattern.finditer(text):
            changed = found.expand(new)
            if new == "0":
                changed = str(int(found[1]) + 1)
            if changed != found[0]:
                yield found.start(), found.end(), changed
