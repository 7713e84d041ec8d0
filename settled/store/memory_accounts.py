"""The in-memory store, part 1: the lives of accounts and the engine hooks that they wait for."""

from settled.store.memory_books import CLOSED, Books, called, cut, nearer, page
from settled.store.records import Account, AccountState, NextHook

_SET_UP = "set-up: "


class MemoryAccounts(Books):
    """See ``settled.store.protocol.AccountStore``."""

    async def open_account(self, account_id: str, *, setup: bool = True) -> Account:
        """Return the open account of this id, creating it if there is none."""
        await called()
        lives = self._lives.setdefault(account_id, [])
        if lives and self._accounts[lives[-1]].state != "closed":
            return self._accounts[lives[-1]]
        number = len(self._accounts) + 1
        for former in lives:
            self._set_account(former, hook=None)
        lives.append(number)
        self._hook_retry_ms[number] = 0
        self._accounts[number] = Account(
            number=number,
            id=account_id,
            state="setup" if setup else "open",
            hook="setup_account" if setup else None,
            opened_ms=self._now_ms(),
        )
        return self._accounts[number]

    async def close_account(self, account_id: str) -> Account:
        """Close the open account of this id; its amounts and history stay."""
        await called()
        account = self._open(account_id)
        self._hook_retry_ms[account.number] = 0
        return self._set_account(
            account.number,
            closed_ms=self._now_ms(),
            hook="close_account",
            hook_failures=0,
            waiting=CLOSED if account.queued else account.waiting,
        )

    async def account(self, account_id: str) -> Account:
        """Return the open account of this id, else its latest closed life."""
        await called()
        return self._latest(account_id)

    async def accounts(
        self,
        *,
        account_id: str | None = None,
        state: AccountState | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Account]:
        """Return a page of accounts, newest first, with numbers below ``before``."""
        await called()
        found = (
            row
            for row in reversed(self._accounts.values())
            if account_id in (None, row.id) and state in (None, row.state)
        )
        return page(found, before, limit)

    async def next_hook(self, account: int) -> NextHook | None:
        """Return the engine hook that this account waits for, if any."""
        await called()
        row, now = self._numbered(account), self._now_ms()
        if row.hook is None:
            return None
        retry_ms = self._hook_retry_ms[account] = nearer(self._hook_retry_ms[account], now)
        return NextHook(row.id, row.hook, row.hook_failures, max(retry_ms - now, 0))

    async def finish_hook(
        self, account: int, hook: str, *, failure: str | None = None, retry_delay_ms: int = 0
    ) -> None:
        """Record that a hook was run: done, or failed and to be tried again after the delay."""
        await called()
        row = self._numbered(account)
        if row.hook != hook:
            return
        waiting = row.waiting
        if failure is None:
            if waiting is not None and waiting.startswith(_SET_UP):
                waiting = None
            self._set_account(account, hook=None, hook_failures=0, waiting=waiting)
            return
        if hook == "setup_account":
            waiting = cut(_SET_UP + failure)
        self._hook_retry_ms[account] = self._now_ms() + retry_delay_ms
        self._set_account(account, hook_failures=row.hook_failures + 1, waiting=waiting)
