"""What is changed in an expression of Python, and where it stands in the source."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from tests.mutation import sql

COMPARISONS: Final[dict[type[ast.cmpop], tuple[str, str]]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
OPERATORS: Final[dict[type[ast.operator], tuple[str, str]]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
NAMES: Final = {
    "min": "max",
    "max": "min",
    "all": "any",
    "any": "all",
    "add": "subtract",
    "subtract": "add",
    "lstrip": "rstrip",
    "rstrip": "lstrip",
    "startswith": "endswith",
    "ROUND_FLOOR": "ROUND_CEILING",
    "LOCK_EX": "LOCK_SH",
    "LOCK_SH": "LOCK_EX",
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of a module: the bytes from ``start`` to ``end`` become ``new``.

    ``lines`` are those of the statement that it is in: what runs them can notice it. They are
    empty outside of functions, for what runs when the module is imported.
    """

    file: str
    line: int
    start: int
    end: int
    new: str
    lines: range

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.new.encode() + source[self.end :]

    def describe(self, source: bytes) -> tuple[str, str]:
        """Return the changed lines, each way on one line of its own."""
        first = source.rfind(b"\n", 0, self.start) + 1
        last = source.find(b"\n", self.end)
        changed = source[first : self.start] + self.new.encode() + source[self.end : last]
        return tuple(" ".join(text.decode().split()) for text in (source[first:last], changed))  # type: ignore[return-value]


class Expressions:
    """Yields the mutants of expressions; ``lines`` is set to those of the statement."""

    def __init__(self, file: str, source: bytes) -> None:
        self._file = file
        self._source = source
        self._starts = [0, *(match.end() for match in re.finditer(rb"\n", source))]
        self.lines = range(0)

    def condition(self, test: ast.expr) -> Iterator[Mutant]:
        yield self.replace(test, "True")
        yield self.replace(test, "False")
        yield from self.expression(test)

    def expression(self, node: ast.expr) -> Iterator[Mutant]:  # noqa: PLR0912 - one case a kind
        match node:
            case ast.Constant() | ast.JoinedStr():
                yield from self._constant(node)
                return
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                for before, op, after in zip((left, *comparators), ops, comparators, strict=False):
                    yield from self.between(before, after, *COMPARISONS[type(op)])
                    if isinstance(after, ast.Tuple | ast.Set):
                        yield from self.elements(after.elts)
            case ast.BoolOp(op=op, values=values):
                old, new, neutral = (
                    ("and", "or", "True") if isinstance(op, ast.And) else ("or", "and", "False")
                )
                for before, after in pairwise(values):
                    yield from self.between(before, after, old, new)
                for value in values:
                    yield self.replace(value, neutral)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                if isinstance(left, ast.JoinedStr) or isinstance(right, ast.JoinedStr):
                    return
                yield from self.between(left, right, *OPERATORS[type(op)])
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                yield self.replace(node, self._text(operand))
            case ast.IfExp(test=test):
                yield from self.condition(test)
                yield from self.expression(node.body)
                yield from self.expression(node.orelse)
                return
            case ast.Name(id=name) if name in NAMES:
                yield self.replace(node, NAMES[name])
            case ast.Attribute(attr=name) if name in NAMES:
                yield self.replace(node, f"{self._text(node.value)}.{NAMES[name]}")
            case ast.Set(elts=elements) if len(elements) > 1:
                yield from self.elements(elements)
            case ast.Subscript(slice=ast.Slice(lower=lower, upper=upper)):
                for bound in (lower, upper):
                    if bound is not None:
                        yield self.replace(bound, "")
            case ast.Call(func=ast.Name("cast")):
                yield from self.expression(node.args[1])
                return
            case ast.comprehension() | ast.Lambda():
                pass
        for child in ast.iter_child_nodes(node):
            yield from self._child(child)

    def _child(self, child: ast.AST) -> Iterator[Mutant]:
        match child:
            case ast.expr():
                yield from self.expression(child)
            case ast.comprehension(iter=iterated, ifs=conditions):
                yield from self.expression(iterated)
                for condition in conditions:
                    yield self.replace(condition, "True")
                    yield from self.expression(condition)
            case ast.keyword(value=value):
                yield from self.expression(value)

    def _constant(self, node: ast.Constant | ast.JoinedStr) -> Iterator[Mutant]:
        start, end = self._span(node)
        text = self._source[start:end].decode()
        if sql.looks_like(text):
            for at, upto, new in sql.mutations(text):
                line = node.lineno + text.count("\n", 0, at)
                shift = len(text[:at].encode()), len(text[:upto].encode())
                yield Mutant(self._file, line, start + shift[0], start + shift[1], new, self.lines)
            return
        match node:
            case ast.Constant(value=bool(value)):
                yield self.replace(node, str(not value))
            case ast.Constant(value=int() | float() as value):
                yield self.replace(node, str(value + 1))
            case ast.Constant(value=str(value)) if " " not in value:
                yield self.replace(node, '"mutant"')
            case ast.Constant(value=bytes()):
                yield self.replace(node, 'b"mutant"')

    # --- spans of the source ---

    def elements(self, elements: list[ast.expr]) -> Iterator[Mutant]:
        """Yield the mutants that lack one element each; a tuple of one keeps a comma."""
        spans = [self._span(element) for element in elements]
        for number, (start, end) in enumerate(spans):
            if len(spans) == 1:
                return
            new = ""
            if number + 1 < len(spans):
                end = spans[number + 1][0]  # noqa: PLW2901 - up to the next
            else:
                start = spans[number - 1][1]  # noqa: PLW2901 - from the one before
            followed = self._source[spans[-1][1] :].lstrip().startswith(b",")
            if len(spans) == 2 and not followed:
                start, end = spans[0][0], spans[1][1]  # noqa: PLW2901
                new = f"{self._text(elements[1 - number])},"
            yield Mutant(self._file, elements[number].lineno, start, end, new, self.lines)

    def between(self, before: ast.expr, after: ast.expr, old: str, new: str) -> Iterator[Mutant]:
        """Yield the mutant with another operator between two operands."""
        gap, end = self._span(before)[1], self._span(after)[0]
        found = re.search(
            rf"(?<![\w<>=!*/]){re.escape(old)}(?![\w<>=*/])", self._source[gap:end].decode()
        )
        if found is not None:
            line = self._source.count(b"\n", 0, gap + found.start()) + 1
            yield Mutant(self._file, line, gap + found.start(), gap + found.end(), new, self.lines)

    def replace(self, node: ast.expr | ast.stmt, new: str) -> Mutant:
        start, end = self._span(node)
        return Mutant(self._file, node.lineno, start, end, new, self.lines)

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._starts[node.lineno - 1] + node.col_offset,
            self._starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def _text(self, node: ast.expr) -> str:
        start, end = self._span(node)
        return self._source[start:end].decode()
