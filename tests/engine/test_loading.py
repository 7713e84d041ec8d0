"""An engine is found by path or by name, and each way to get it wrong has its own clear line."""

import importlib
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from settled.engine.loading import installed, load
from settled.engine.values import Value
from settled.errors import ConfigError

ENGINE = '''"""The module of it."""
from __future__ import annotations

import functools
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from settled.engine.options import option

if TYPE_CHECKING:
    from settled.engine.protocol import Connect
    from settled.engine.services import Services


@dataclass(frozen=True)
class Options:
    precision: int = option(default=2, maximum=18)
    key: str | None = option(default=None, secret=True)


async def connect(services: Services):
    """Pay by hand.

    More of it.
    """


async def connect_with_options(options: Options): ...


@asynccontextmanager
async def managed(services: Services):
    yield


class Manager:
    def __init__(self, services): ...
    async def __aenter__(self): ...
    async def __aexit__(self, *_): ...


class Namespace:
    @staticmethod
    def create_engine(options: Options) -> Connect:
        return connect


class Factory:
    def __call__(self, options: Options) -> Connect:
        return connect


factory = Factory()
partial = functools.partial(connect)


def plain(services):
    return connect(services)


def create_engine(options: Options) -> Connect:
    made.append(options)
    return connect


def with_default(options: Options = Options()) -> Connect:
    made.append(options)
    return connect


def create_bare() -> Connect:
    return connect


def refuse(options: Options) -> Connect:
    raise ValueError(f"no wallet for {options.key}")


def crash(options: Options) -> Connect:
    raise KeyError("wallet")


def forget(options: Options) -> Connect: ...


def two(options: Options, more): ...


async def none(): ...


made = []
number = 5
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Write modules into the current directory; forget them afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_engine", raising=False)
    before = set(sys.modules)

    def write(text: str, path: str = "my_engine.py") -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        importlib.invalidate_caches()

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def _engine(module: Callable[..., None]) -> None:
    module(ENGINE)


def fault(target: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(target)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def flag(raw: str) -> Value:
    return Value(raw, "-o", "flag")


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize(
    "name", ["connect", "managed", "Manager", "partial", "plain", "connect_with_options"]
)
def test_a_connect_in_the_current_directory_is_taken_as_it_is(name: str) -> None:
    loaded = load(f"my_engine:{name}")
    assert not loaded.is_factory
    assert loaded.options_class is None
    assert loaded.make({}) is getattr(sys.modules["my_engine"], name)


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize(
    "name", ["create_engine", "with_default", "Namespace.create_engine", "factory"]
)
def test_a_factory_is_known_by_the_dataclass_that_it_takes(name: str) -> None:
    loaded = load(f"my_engine:{name}")
    module: Any = sys.modules["my_engine"]
    given = module.Options(precision=6)
    assert loaded.is_factory
    assert loaded.options_class is module.Options
    assert [info.name for info in loaded.options()] == ["precision", "key"]
    assert loaded.make({"precision": flag("6")}) is module.connect
    if module.made:
        assert module.made == [given]


@pytest.mark.usefixtures("_engine")
def test_a_factory_may_take_nothing() -> None:
    loaded = load("my_engine:create_bare")
    assert loaded.is_factory
    assert loaded.options() == []
    module: Any = sys.modules["my_engine"]
    assert loaded.make({}) is module.connect


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("name", ["connect", "create_bare"])
def test_options_for_an_engine_that_takes_none_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"takes no options, but precision is given \(from -o\)"):
        load(f"my_engine:{name}").make({"precision": flag("6")})


@pytest.mark.usefixtures("_engine")
def test_the_summary_is_the_first_line_of_the_documentation() -> None:
    assert load("my_engine:connect").summary == "Pay by hand."
    assert load("my_engine:create_bare").summary == "The module of it."


@pytest.mark.parametrize(
    "target", ["a:b:c", ":connect", "my_engine:", "my engine:x", "my_engine.:x", "a:b.", "a\n:b"]
)
def test_a_target_of_no_proper_form_says_what_the_form_is(target: str) -> None:
    assert "expected MODULE:NAME, like my_engine:connect" in fault(target)


@pytest.mark.usefixtures("_engine")
def test_a_missing_module_is_told_from_a_module_that_misses_one(
    module: Callable[..., None],
) -> None:
    assert "there is no module my_engne" in fault("my_engne:connect")
    assert "there is no module my_engine.deep" in fault("my_engine.deep:connect")
    module("import no_such_ledger\n", "needy.py")
    assert "module needy imports no_such_ledger, which is not installed" in fault("needy:x")
    module("import pack.ledger\n", "pack/__init__.py")
    assert "module pack imports pack.ledger, which is not installed" in fault("pack:x")


def test_a_module_that_fails_to_import_says_where_and_why(module: Callable[..., None]) -> None:
    module("def f():\n    raise RuntimeError('no\\nluck')\n\nf()\n", "unlucky.py")
    message = fault("unlucky:x")
    assert "importing unlucky failed at " in message
    assert "unlucky.py:2: RuntimeError: no luck" in message
    module("def (\n", "garbled.py")
    assert "importing garbled failed" in fault("garbled:x")
    assert "SyntaxError" in fault("garbled:x")
    module("import sys\nsys.exit(0)\n", "leaving.py")
    assert "SystemExit" in fault("leaving:x")


@pytest.mark.usefixtures("_engine")
def test_a_missing_attribute_suggests_the_near_ones() -> None:
    assert "has no create_engin; did you mean create_engine" in fault("my_engine:create_engin")
    assert "did you mean create_engine?" in fault("my_engine:Namespace.create_engin")
    assert fault("my_engine:zzz").endswith("my_engine has no zzz")


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("number", "is not callable"),
        ("Options", "is a class"),
        ("two", "takes (options"),
        ("none", "takes ()"),
    ],
)
def test_what_is_neither_connect_nor_a_factory_is_refused(name: str, words: str) -> None:
    message = fault(f"my_engine:{name}")
    assert words in message
    assert "expected connect(services), or create_engine(options: <a dataclass>)" in message


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("refuse", "engine my_engine:refuse: no wallet for None"),
        ("crash", "engine my_engine:crash: KeyError: 'wallet'"),
        ("forget", "must return connect, but returned NoneType"),
    ],
)
def test_a_factory_that_fails_ends_in_one_line(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(f"my_engine:{name}").make({})


@pytest.mark.usefixtures("_engine")
def test_a_factory_that_fails_does_not_spell_its_secrets_out() -> None:
    values = {"key": Value("hunter2", "environment variable SETTLED_OPTION_KEY", "environment")}
    with pytest.raises(ConfigError, match="no wallet for concealed") as caught:
        load("my_engine:refuse").make(values)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.usefixtures("_engine")
def test_a_bad_options_class_is_found_when_the_engine_loads(module: Callable[..., None]) -> None:
    module(
        "from dataclasses import dataclass\n\n@dataclass\nclass Options:\n    tags: list\n\n"
        "def create_engine(options: Options): ...\n",
        "odd.py",
    )
    assert "options class Options: tags must be one of" in fault("odd:create_engine")


def _install(tmp_path: Path, package: str, points: str) -> None:
    info = tmp_path / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[settled.engines]\n{points}\n")


@pytest.mark.usefixtures("_engine")
def test_an_installed_engine_is_found_by_its_name(tmp_path: Path) -> None:
    _install(tmp_path, "one", "byhand = my_engine:connect\nshared = my_engine:connect")
    sys.path.insert(0, str(tmp_path))
    assert ("byhand", "my_engine:connect") in [(p.name, p.value) for p in installed()]
    loaded = load("byhand")
    assert (loaded.name, loaded.path) == ("byhand", "my_engine:connect")
    unknown = fault("byhend")
    assert "no engine 'byhend' is installed (installed: byhand, " in unknown
    assert "write MODULE:NAME" in unknown
    _install(tmp_path, "two", "shared = my_engine:plain")
    importlib.invalidate_caches()
    assert "installed more than once" in fault("shared")
