"""Mutants: small changes to one module, each of which some test should notice.

A mutant replaces one span of the source. What it may be: a comparison, condition, operand, number
or name that is another; a statement, handler or element that is missing; and in SQL, a condition,
order, constraint or assignment (``sql.py``).

What is never changed, because tests do not and should not pin it: docstrings, annotations, imports,
assertions, decorators, what is logged, what stands in a ``raise`` (the wording of errors; that it
raises is changed), and texts with spaces in them (the wording of reasons).
"""

import ast
import re
from collections.abc import Iterator
from typing import Final

from tests.mutation.expressions import OPERATORS, Expressions, Mutant

# Functions that do nothing but log.
LOGGING: Final = ("_log", "_report")


def mutants_of(file: str, source: bytes) -> list[Mutant]:
    """Return every mutant of a module, in the order of its text."""
    found = dict.fromkeys(_Statements(file, source).module(ast.parse(source)))
    return sorted(found, key=lambda mutant: (mutant.start, mutant.end, mutant.new))


class _Statements(Expressions):
    """Walks the statements of a module and yields its mutants."""

    def __init__(self, file: str, source: bytes) -> None:
        super().__init__(file, source)
        self._assigned: set[str] = set()

    def module(self, tree: ast.Module) -> Iterator[Mutant]:
        yield from self._block(tree.body, function=None)

    def _block(
        self, body: list[ast.stmt], function: ast.FunctionDef | ast.AsyncFunctionDef | None
    ) -> Iterator[Mutant]:
        for statement in body:
            yield from self._statement(statement, function, alone=len(body) == 1)

    def _statement(  # noqa: PLR0912 - one case a kind of statement
        self,
        node: ast.stmt,
        function: ast.FunctionDef | ast.AsyncFunctionDef | None,
        *,
        alone: bool,
    ) -> Iterator[Mutant]:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from self._function(node)
                return
            case ast.ClassDef():
                if not any(ast.unparse(base) == "Protocol" for base in node.bases):
                    yield from self._block(node.body, None)
                return
            case ast.Import() | ast.ImportFrom() | ast.Assert() | ast.Pass() | ast.Global():
                return
            case ast.Expr(ast.Constant()):
                return  # a docstring
            case ast.Expr() if _logs(node):
                return
            case ast.If(body=body, orelse=[]) if all(map(_logs, body)):
                return
            case ast.Assign(value=ast.Subscript() | ast.Call()) if function is None and (
                "TypeVar" in ast.unparse(node) or isinstance(node.value, ast.Subscript)
            ):
                return  # a type
            case ast.Assign(targets=[ast.Name("__slots__")]):
                return
        bodies = [
            value
            for name in ("body", "orelse", "finalbody")
            if (value := getattr(node, name, None))
        ]
        header = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        if bodies:
            header = range(node.lineno, bodies[0][0].lineno)
            header = header or range(node.lineno, node.lineno + 1)
        if isinstance(node, ast.Match):
            header = range(node.lineno, node.lineno + 1)
        self.lines = header if function is not None else range(0)
        if function is not None:
            yield from self._without(node, function, alone=alone)
        yield from self._header(node)
        for body in bodies:
            yield from self._block(body, function)
        for handler in getattr(node, "handlers", ()):
            yield from self._handler(handler, function)
        for case in getattr(node, "cases", ()):
            self.lines = range(case.pattern.lineno, case.pattern.lineno + 1)
            if case.guard is not None:
                yield from self.condition(case.guard)
            yield from self._block(case.body, function)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Mutant]:
        if node.name in LOGGING:
            return
        outer = self._assigned
        self.lines = range(0)
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                yield from self.expression(default)
        self._assigned = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
        yield from self._block(node.body, node)
        self._assigned = outer

    def _without(
        self, node: ast.stmt, function: ast.FunctionDef | ast.AsyncFunctionDef, *, alone: bool
    ) -> Iterator[Mutant]:
        """Yield the mutant that lacks the statement, unless it cannot work at all."""
        match node:
            case ast.Expr() | ast.AugAssign() | ast.Delete() | ast.Raise() | ast.Break():
                yield self.replace(node, "pass")
            case ast.Continue() | ast.Return(value=None):
                yield self.replace(node, "pass")
            case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) if (
                function.name != "__init__"
            ):
                yield self.replace(node, "pass")
            case ast.Assign(targets=[ast.Name(name)]):
                if name in self._assigned:
                    yield self.replace(node, "pass")
                self._assigned.add(name)
            case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
                yield self.replace(value, "None")

    def _header(self, node: ast.stmt) -> Iterator[Mutant]:
        match node:
            case ast.If(test=test):
                yield from self.condition(test)
            case ast.While(test=test):
                if not isinstance(test, ast.Constant):
                    yield self.replace(test, "False")
                    yield from self.expression(test)
            case ast.For(iter=expression) | ast.AsyncFor(iter=expression):
                yield from self.expression(expression)
            case ast.Match(subject=expression):
                yield from self.expression(expression)
            case ast.With(items=items) | ast.AsyncWith(items=items):
                for item in items:
                    yield from self.expression(item.context_expr)
            case ast.AugAssign(op=ast.Add() | ast.Sub(), value=value):
                old, new = OPERATORS[type(node.op)]
                yield from self.between(node.target, value, old + "=", new + "=")
                yield from self.expression(value)
            case ast.AnnAssign(value=ast.expr() as value) | ast.Assign(value=value):
                if isinstance(value, ast.Tuple) and not self.lines:
                    yield from self.elements(value.elts)
                yield from self.expression(value)
            case ast.Expr(value=value) | ast.Return(value=ast.expr() as value):
                yield from self.expression(value)

    def _handler(
        self,
        handler: ast.ExceptHandler,
        function: ast.FunctionDef | ast.AsyncFunctionDef | None,
    ) -> Iterator[Mutant]:
        self.lines = range(handler.lineno, handler.body[0].lineno + 1)
        if isinstance(handler.type, ast.Tuple):
            yield from self.elements(handler.type.elts)
        elif handler.type is not None:
            yield self.replace(handler.type, "ZeroDivisionError")
        yield from self._block(handler.body, function)


def _logs(node: ast.stmt) -> bool:
    """Return whether a statement calls a logger."""
    return re.match(r"(log|bound|_log\(\w+\))\.|_report\(", ast.unparse(node)) is not None
