"""From the name of an engine to its ``connect``, with one clear line for whatever is wrong.

A target is a dotted path, ``my_engine:connect`` (the current directory is searched first), or the
name under which a package installed an engine in the entry-point group ``settled.engines``::

    [options.entry_points]
    settled.engines =
        loopback = engines.loopback:create_engine

What it leads to is either ``connect(services)`` itself, or a factory of it:
``create_engine(options)``, whose parameter is annotated with the dataclass of its options, or
``create_engine()``.
"""

import dataclasses
import difflib
import functools
import importlib
import inspect
import sys
import traceback
import types
import typing
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

from settled.engine.options import OptionInfo, build, describe, secrets_of
from settled.engine.protocol import Connect
from settled.engine.secrets import conceal, is_exposed
from settled.engine.values import Value
from settled.errors import ConfigError
from settled.text import describe_error, one_line

GROUP: Final = "settled.engines"

_FORM: Final = "expected connect(services), or create_engine(options: <a dataclass>)"


@dataclass(frozen=True, slots=True)
class LoadedTarget:
    """An engine that was found: ``function`` is its ``connect``, or the factory of it.

    ``name`` is how it was asked for, ``path`` the dotted path that it led to, ``summary`` the first
    line of its documentation.
    """

    name: str
    path: str
    function: Callable[..., Any]
    is_factory: bool
    options_class: type | None

    @property
    def summary(self) -> str:
        """The first line of its documentation, or else of its module's."""
        module = sys.modules.get(self.path.partition(":")[0])
        text = inspect.getdoc(self.function) or inspect.getdoc(module) or ""
        return one_line(text.partition("\n")[0])

    def options(self) -> list[OptionInfo]:
        """Return the options that it takes."""
        return [] if self.options_class is None else describe(self.options_class)

    def make(self, values: Mapping[str, Value]) -> Connect:
        """Return its ``connect``, made with these options.

        Raises:
            ConfigError: when an option is missing, unknown or bad, or the factory fails.
        """
        if self.options_class is None:
            self.check_no_options(values)
            return self._call() if self.is_factory else self.function
        return self._call(build(self.options_class, values))

    def exposed(self, values: Mapping[str, Value]) -> list[str]:
        """Return the files, among these options, of secrets that everybody here can read."""
        names = [f"{info.name}_file" for info in self.options() if info.secret]
        files = [str(values[name].raw) for name in names if name in values]
        return [file for file in files if is_exposed(Path(file))]

    def check_no_options(self, values: Mapping[str, Value]) -> None:
        """Raise ``ConfigError`` if there are options, for an engine that takes none."""
        for name, value in values.items():
            raise ConfigError(
                f"engine {self.name} takes no options, but {one_line(name, 50)} is given "
                f"(from {value.source})"
            )

    def _call(self, *arguments: Any) -> Connect:
        secrets = [secret for options in arguments for secret in secrets_of(options)]
        try:
            connect = self.function(*arguments)
        except Exception as error:
            reason = one_line(conceal(_reason(error), secrets))
            message = f"engine {self.name}: {reason}"
            if secrets:  # a traceback of the cause could spell them out
                raise ConfigError(message) from None
            raise ConfigError(message) from error
        if not callable(connect):
            raise ConfigError(
                f"engine {self.name}: {self.path} must return connect, "
                f"but returned {type(connect).__name__}"
            )
        return typing.cast("Connect", connect)


def load(target: str) -> LoadedTarget:
    """Return the engine that ``target`` names.

    Raises:
        ConfigError: when it has no proper form, is not found, cannot be imported, or leads to
            something that is no engine.
    """
    module, colon, attribute = target.partition(":")
    if not colon:
        return _load_path(target, _installed_path(target))
    for part in (module, attribute):
        if not all(name.isidentifier() for name in part.split(".")):
            raise ConfigError(
                f"engine {one_line(target, 100)!r}: expected MODULE:NAME, like my_engine:connect, "
                f"or the name of an installed engine"
            )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
        importlib.invalidate_caches()
    return _load_path(target, target)


def installed() -> list[EntryPoint]:
    """Return the entry points of the engines that are installed, by name."""
    unique = {(point.name, point.value): point for point in entry_points(group=GROUP)}
    return [unique[key] for key in sorted(unique)]


def _installed_path(name: str) -> str:
    points = installed()
    paths = [f"{point.module}:{point.attr}" for point in points if point.name == name]
    if len(paths) == 1:
        return paths[0]
    if paths:
        raise ConfigError(
            f"engine {name} is installed more than once ({', '.join(paths)}): "
            f"use one of these dotted paths"
        )
    known = ", ".join(point.name for point in points) or "none"
    raise ConfigError(
        f"no engine {one_line(name, 100)!r} is installed (installed: {known}); "
        f"for one of your own, write MODULE:NAME, like my_engine:connect"
    )


def _load_path(name: str, path: str) -> LoadedTarget:
    module_name, _, attribute = path.partition(":")
    function = _find(name, _import(name, module_name), attribute)
    if not callable(function):
        raise ConfigError(f"engine {name}: {path} is not callable; {_FORM}")
    if isinstance(function, type) and not issubclass(function, AbstractAsyncContextManager):
        raise ConfigError(f"engine {name}: {path} is a class; {_FORM}")
    is_factory, options_class = _inspect(name, path, function)
    if options_class is not None:
        describe(options_class)
    return LoadedTarget(name, path, function, is_factory, options_class)


def _import(name: str, module_name: str) -> types.ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name == missing or module_name.startswith(f"{missing}."):
            raise ConfigError(
                f"engine {name}: there is no module {missing} (looked in {Path.cwd()} and in "
                f"the installed packages)"
            ) from error
        raise ConfigError(
            f"engine {name}: module {module_name} imports {missing or one_line(error)}, "
            f"which is not installed"
        ) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"engine {name}: importing {module_name} failed{_place(error)}: {describe_error(error)}"
        ) from error


def _place(error: BaseException) -> str:
    """Say where an exception was raised, for the author of the engine to look there."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen") and frame.filename != importlib.__file__
    ][1:]
    return f" at {one_line(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""


def _find(name: str, module: types.ModuleType, attribute: str) -> Any:
    found: Any = module
    for part in filter(None, attribute.split(".")):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            public = [known for known in dir(found) if not known.startswith("_")]
            near = difflib.get_close_matches(part, public, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ConfigError(
                f"engine {name}: {module.__name__} has no {attribute}{hint}"
            ) from error
    return found


def _inspect(name: str, path: str, function: Any) -> tuple[bool, type | None]:
    """Say whether it is a factory, and what dataclass of options it takes."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # compiled code may not tell: it can only be tried
        return False, None
    plain = inspect.unwrap(function)
    is_async = inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain)
    if not is_async and not parameters:
        return True, None
    if not is_async and len(parameters) == 1:
        options_class = _options_class(function, parameters[0])
        if options_class is not None:
            return True, options_class
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        raise ConfigError(
            f"engine {name}: {path} takes {inspect.signature(function)}; {_FORM}"
        ) from None
    return False, None


def _options_class(function: Any, parameter: inspect.Parameter) -> type | None:
    hint = parameter.annotation
    if isinstance(hint, str):
        hint = _resolve(function, parameter)
    return hint if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None


def _resolve(function: Any, parameter: inspect.Parameter) -> object:
    """Return the type that a parameter's annotation spells.

    Only this one annotation is looked at: the others may name what is imported for typing alone.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = getattr(function, "__init__" if isinstance(function, type) else "__call__")
    holder = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        return typing.get_type_hints(holder, globalns=scope)[parameter.name]
    except Exception:
        return None


def _reason(error: Exception) -> str:
    # The text of these was written for the operator; others need their type to make sense.
    if isinstance(error, ConfigError | ValueError) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}"
