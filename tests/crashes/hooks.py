"""Crashes that a process makes itself, at named points: around a commit, a payment, a credit."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from outcome import Maybe

from settled.store.protocol import Store
from settled.store.records import Queued, Request
from tests.crashes.lab import Hook
from tests.crashes.world import Notes

HOOK_EXIT: Final = 9

_Done = Callable[[list[Maybe[Queued]]], None]


class CrashingStore:
    """A store that ends the process at one call of one method."""

    def __init__(self, inner: Store, hook: Hook) -> None:
        self._inner = inner
        self._hook = hook
        self._calls = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name != self._hook.method:
            return method

        if name == "begin_settlements":
            return partial(self._begin, method)

        async def call(*args: Any, **kwargs: Any) -> Any:
            now = self._is_now()
            result = await method(*args, **kwargs)
            if now:
                os._exit(HOOK_EXIT)
            return result

        return call

    def _is_now(self) -> bool:
        """Count a call, and end the process before it if that is wanted; else say if after it."""
        self._calls += 1
        now = self._calls == self._hook.n
        if now and self._hook.moment == "before":
            os._exit(HOOK_EXIT)
        return now

    def _begin(
        self,
        method: Callable[[Sequence[Request], _Done], None],
        requests: Sequence[Request],
        done: _Done,
    ) -> None:
        now = self._is_now()

        def after(results: list[Maybe[Queued]]) -> None:
            if now:
                os._exit(HOOK_EXIT)
            done(results)

        method(requests, after)


def crash_at(notes: Notes, hook: Hook) -> None:
    """End the process just before or after something is written into these notes."""
    add, calls = notes.add, 0

    def adding(**entry: str) -> None:
        nonlocal calls
        calls += 1
        if calls == hook.n and hook.moment == "before":
            os._exit(HOOK_EXIT)
        add(**entry)
        if calls == hook.n:
            os._exit(HOOK_EXIT)

    notes.add = adding  # type: ignore[method-assign]
