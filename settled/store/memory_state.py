"""The in-memory store, part 4: the engine's state, and what an engine commits together."""

from collections.abc import Sequence
from decimal import Decimal

from settled import limits
from settled.errors import StateChanged
from settled.store.memory_books import called
from settled.store.memory_incoming import MemoryIncoming
from settled.store.records import AddCredit, Change, RequireState, SetState


class MemoryState(MemoryIncoming):
    """See ``settled.store.protocol.StateStore``."""

    async def commit(self, changes: Sequence[Change]) -> list[int | None]:
        """Make the changes, all or none of them."""
        await called()
        for change in changes:
            if isinstance(change, RequireState):
                self._require(change)
        amounts: dict[str, Decimal] = {}
        for change in changes:
            if isinstance(change, AddCredit):
                self._check_credit(change, amounts)
            elif isinstance(change, SetState):
                _check_state(change)
        return [self._make(change) for change in changes]

    def _require(self, change: RequireState) -> None:
        if self._state.get((change.account_id, change.key)) != change.value:
            raise StateChanged(f"state {change.key!r} was changed meanwhile: nothing was done")

    def _make(self, change: Change) -> int | None:
        if isinstance(change, SetState):
            if change.value is None:
                self._state.pop((change.account_id, change.key), None)
            else:
                self._state[change.account_id, change.key] = change.value
            return None
        if isinstance(change, RequireState):
            return None
        credit = self._add_credit(change)
        return None if credit is None else credit.account

    async def get_state(self, account_id: str | None, key: str) -> bytes | None:
        """Return a value of the engine's state (``account_id=None``) or an account's."""
        await called()
        return self._state.get((account_id, key))

    async def list_state(self, account_id: str | None, prefix: str = "") -> list[tuple[str, bytes]]:
        """Return the keys that start with ``prefix`` and their values, in the order of the keys."""
        await called()
        return sorted(
            (key, value)
            for (scope, key), value in self._state.items()
            if scope == account_id and key.startswith(prefix)
        )


def _check_state(change: SetState) -> None:
    if not 1 <= len(change.key) <= limits.STATE_KEY_CHARS_MAX:
        raise ValueError(f"a state key has 1 to {limits.STATE_KEY_CHARS_MAX} characters")
    if change.value is not None and len(change.value) > limits.STATE_VALUE_BYTES_MAX:
        raise ValueError(
            f"state {change.key!r}: a value has {limits.STATE_VALUE_BYTES_MAX} bytes at most"
        )
