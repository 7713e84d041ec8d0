"""What is changed, and that what is accepted as a survivor still is a change."""

import ast
import textwrap

import pytest

from tests.mutation import sql
from tests.mutation.__main__ import scope
from tests.mutation.campaign import accepted, chosen, source
from tests.mutation.mutants import mutants_of


def changed(text: str) -> set[str]:
    """Return what becomes of a function with this body, one line for each mutant."""
    code = ("def f(a, b):\n" + textwrap.indent(text, "    ") + "\n").encode()
    found = set()
    for mutant in mutants_of("f.py", code):
        ast.parse(mutant.apply(code))
        found.add(mutant.describe(code)[1])
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("return a < b", {"return a <= b", "return None"}),
        ("if a and b:\n    g()", {"if True:", "if False:", "if a or b:", "if True and b:", "pass"}),
        ("a.x = -b", {"pass", "a.x = b"}),
        ("g(a[:2])", {"pass", "g(a[:])", "g(a[:3])"}),
        ("try:\n    g()\nexcept KeyError:\n    h()", {"except ZeroDivisionError:"}),
        ("return a in (1, 2)", {"return a in (1,)", "return a in (2,)", "return a not in (1, 2)"}),
        ("raise KeyError(a < b)", {"pass"}),
    ],
)
def test_what_a_statement_becomes(text: str, expected: set[str]) -> None:
    assert expected <= changed(text)


@pytest.mark.parametrize(
    "text", ['"""It says so."""', "log.info(a < b)", "assert a < b", "from x import y"]
)
def test_what_is_left_alone(text: str) -> None:
    assert changed(text) == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT x FROM t WHERE a = ?", "SELECT x FROM t WHERE (a = ? OR TRUE)"),
        ("SELECT x FROM t WHERE a = 1 AND b", "SELECT x FROM t WHERE a = 1 OR b"),
        ("SELECT x FROM t ORDER BY x DESC LIMIT ?", "SELECT x FROM t ORDER BY x LIMIT ?"),
        ("UPDATE t SET a = ?, b = ? WHERE c", "UPDATE t SET a = ?, b = iif(TRUE, b, ?) WHERE c"),
        ("CREATE UNIQUE INDEX i ON t (a)", "CREATE INDEX i ON t (a)"),
        ("a TEXT NOT NULL CHECK (a <> '')", "a TEXT NOT NULL"),
        ("BEGIN IMMEDIATE", "BEGIN"),
    ],
)
def test_what_sql_becomes(text: str, expected: str) -> None:
    quoted = f'"{text}"'
    assert sql.looks_like(quoted)
    found = {quoted[:start] + new + quoted[end:] for start, end, new in sql.mutations(quoted)}
    assert f'"{expected}"' in found


@pytest.mark.parametrize("file", scope())
def test_every_mutant_is_python(file: str) -> None:
    for mutant in chosen(file, sample=5, seed=1):
        ast.parse(mutant.apply(source(file)))


def test_what_is_accepted_is_still_a_change() -> None:
    files = {file for file, _, _ in accepted()}
    possible = {
        (file, *mutant.describe(source(file)))
        for file in files
        for mutant in mutants_of(file, source(file))
    }
    assert accepted().keys() <= possible, "take it out of accepted.toml"
