"""One scenario, crashed at one point, checked, and gone on with to its end."""

import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import Final

import trio

from settled.errors import StoreBusy
from tests.crashes.checks import check_crashed, check_end
from tests.crashes.hooks import HOOK_EXIT
from tests.crashes.lab import Fault, Hook, Lab, Outcome
from tests.crashes.operator import resolve_parked
from tests.crashes.scenarios import SCENARIOS
from tests.crashes.world import NOT_DONE, World

KILLED: Final = -9
SYNCS: Final = ("fsync", "fdatasync")


class Subject:
    """One scenario, ready to be crashed.

    Args:
        lab: where it runs.
        name: of the scenario.
        root: an empty directory for its files.
    """

    def __init__(self, lab: Lab, name: str, root: Path) -> None:
        self.lab = lab
        self.name = name
        self.scenario = SCENARIOS[name]
        self.parked = 0  # what the operator had to resolve
        self._template = root / "template"
        self._directory = root / "run"
        self._template.mkdir(parents=True)
        trio.run(self.scenario.prepare, World(self._template))

    def fresh(self) -> World:
        """Return the files that a run starts from."""
        shutil.rmtree(self._directory, ignore_errors=True)
        shutil.copytree(self._template, self._directory)
        return World(self._directory)

    @cached_property
    def counts(self) -> dict[tuple[str, str], int]:
        """How often each thread makes each system call of those that fail in a sweep."""
        threads = dict.fromkeys(self.lab.run(self.name, self.fresh().directory).threads)
        found = {}
        for thread in threads:
            outcome = self.lab.run(self.name, self.fresh().directory, watch=thread)
            assert outcome.code == 0, outcome
            found.update({(thread, call): n for call, n in outcome.calls.items()})
        return found

    def go_on(self, world: World) -> None:
        """Start again after a crash and come to the end; the books must be right there."""
        for _ in range(1, self.scenario.days):
            outcome = self.lab.run(self.name, world.directory, patience_s=0.3)
            assert outcome.code == StoreBusy.exit_code, outcome
            world.pass_a_day()
        outcome = self.lab.run(self.name, world.directory)
        assert outcome.code == 0, outcome
        if self.scenario.parks:
            self.parked += resolve_parked(world)
            outcome = self.lab.run(self.name, world.directory)
            assert outcome.code == 0, outcome
        check_end(self.scenario, world)

    def kill(self, fault: Fault) -> bool:
        """Kill at a point, check what is left, and go on; return whether it was reached."""
        world = self.fresh()
        outcome = self.lab.run(self.name, world.directory, fault=fault)
        if outcome.code == 0:
            check_end(self.scenario, world)
            return False
        assert outcome.code == KILLED, outcome
        check_crashed(self.scenario, world)
        self._check_synced(world, fault, outcome)
        self.go_on(world)
        return True

    def crash(self, hook: Hook) -> bool:
        """Crash at a named point, check what is left, and go on; return whether it was reached."""
        world = self.fresh()
        patience_s = 0.3 if self.scenario.days > 1 else 20.0
        outcome = self.lab.run(self.name, world.directory, hook=hook, patience_s=patience_s)
        if outcome.code != HOOK_EXIT:
            assert outcome.code == (StoreBusy.exit_code if self.scenario.days > 1 else 0), outcome
        check_crashed(self.scenario, world)
        self.go_on(world)
        return outcome.code == HOOK_EXIT

    def fail(self, fault: Fault, *, patience_s: float = 20.0) -> bool:
        """Have system calls fail, check what comes of it, and go on; return if any was reached.

        Either all is done in spite of it, or the process ends with an error for the operator, and
        the next one goes on. What was answered with 201 is there in each case.
        """
        world = self.fresh()
        outcome = self.lab.run(self.name, world.directory, fault=fault, patience_s=patience_s)
        assert outcome.code in (0, 1, 75, 78), outcome
        if outcome.code == 0:
            if not self.scenario.parks:
                check_end(self.scenario, world)
        else:
            assert outcome.injected, outcome
            error = outcome.stderr.removesuffix("\n")
            assert error.startswith("settled: error: "), outcome
            assert "\n" not in error, outcome
            assert "(--debug shows where)" not in error, f"not for an operator: {outcome}"
            assert NOT_DONE not in error or not fault.passes, f"it went on, to no end: {outcome}"
        if self._log_is_only_written(fault) and fault.call in SYNCS:
            of_commit = any(path.endswith("-wal") for path in outcome.hit)
            assert outcome.code == (1 if of_commit else 0), outcome
        check_crashed(self.scenario, world)
        self._check_synced(world, fault, outcome)
        self.go_on(world)
        return outcome.injected > 0

    def _log_is_only_written(self, fault: Fault) -> bool:
        """Whether the thread of the fault writes the log, nothing else, and nobody else does."""
        return (self.name, fault.thread) == ("accept", "settled-writer")

    def _check_synced(self, world: World, fault: Fault, outcome: Outcome) -> None:
        """Check that what was acknowledged is there without what was written but never synced."""
        log = world.db.with_name(f"{world.db.name}-wal")
        if self._log_is_only_written(fault) and log.exists():
            os.truncate(log, min(outcome.synced.get(str(log), 0), log.stat().st_size))
            check_crashed(self.scenario, world)
