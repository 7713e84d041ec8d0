"""The house rules that a program can check; see CONTRIBUTING.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path for part in ("settled", "engines", "benchmarks") for path in (ROOT / part).rglob("*.py")
)

MODULE_LINES_MAX = 300
FUNCTION_LINES_MAX = 60

# From the ground up: a module imports only what stands before it, or its own floor.
FLOORS = (
    ("version", "limits", "errors", "text", "ids", "amounts"),
    ("store",),
    ("core",),
    ("connector", "courier", "server", "exchange", "answers", "kept"),
    ("engine",),
    ("http",),
    ("daemon",),
    ("setting_values", "config", "logs", "cli", "commands"),
    ("testing",),
)


def floor_of(module: str) -> int | None:
    part = module.split(".")[1] if "." in module else module
    return next((n for n, parts in enumerate(FLOORS) if part in parts), None)


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield what the module imports when it runs; imports for typing only do not count."""
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield f"{node.module}.{alias.name}" if node.module == "settled" else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_keeps_the_rules(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert text.count("\n") <= MODULE_LINES_MAX, "too long: one idea a module"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX, f"{node.name} has {lines} lines"
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text)
    if text.strip():
        assert ast.get_docstring(tree), "what lives here?"


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if path.is_relative_to(ROOT / "settled") and path.stem != "__main__"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_floor_imports_only_floors_below_it(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts == ("settled", "__init__"):
        return
    own = floor_of(".".join(parts))
    assert own is not None, "a module without a floor: add it to FLOORS"
    for module in imports(ast.parse(path.read_text())):
        if module.startswith("settled."):
            other = floor_of(module)
            assert other is not None, module
            assert other <= own, f"{module} is above {'.'.join(parts)}"


def test_engines_use_only_what_settled_exports() -> None:
    for path in (ROOT / "engines").rglob("*.py"):
        for module in imports(ast.parse(path.read_text())):
            assert not re.match(r"settled\.[a-z_]+", module) or module in exported(), module


def exported() -> set[str]:
    import settled

    return {f"settled.{name}" for name in settled.__all__} | {"settled.commands"}


@pytest.mark.parametrize("floor", ["amounts.py", "store", "core", "connector.py"])
def test_no_float_comes_near_an_amount(floor: str) -> None:
    """Floats are for seconds; no name with money in it is ever converted to or from one."""
    root = ROOT / "settled" / floor
    for path in [root] if root.is_file() else root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "float":
                raise AssertionError(f"{path}:{node.lineno} makes a float")
            if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
                annotation = ast.unparse(node.annotation)
                name = node.arg if isinstance(node, ast.arg) else ast.unparse(node.target)
                if "float" in annotation:
                    assert re.search(r"_s$|^at$|_(due|heap)$", name), f"{path}:{node.lineno} {name}"
