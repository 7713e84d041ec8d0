"""One run of pytest in a process of its own, on a copy of the tree in memory.

The parent has imported pytest and every library once; each run is a fork of it that imports only
the project itself, from the copy, so that a mutant costs a fraction of a second. Processes that
the tests start see the same copy.
"""

import hashlib
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Final

import coverage
import hypothesis
import pytest

ROOT: Final = Path(__file__).parents[2]
# All that tests what the store, the core and the connector's client do. The rest looks at the
# code and the docs, or at the floors above; or it mounts disks, which would outlive a test that
# is ended.
TESTS: Final = (
    "tests/core",
    "tests/promises",
    "tests/store",
    "tests/damage/test_files.py",
    "tests/damage/test_messages.py",
    "tests/damage/test_other_writers.py",
    "tests/damage/test_restored_backup.py",
    "tests/damage/test_room.py",
    "tests/damage/test_running.py",
    *(
        f"tests/neighbours/test_{name}.py"
        for name in (
            *("connector_answers", "connector_connections", "connector_kept", "connector_retries"),
            *("connector_watched", "credits", "exchange", "hooks", "kept_in_time", "messages"),
            "settle",
        )
    ),
    "tests/http",
    "tests/cli/test_account_commands.py",
    "tests/cli/test_data_commands.py",
    "tests/cli/test_data_processes.py",
    "tests/cli/test_resolving_commands.py",
    "tests/cli/test_safety_commands.py",
    "tests/test_amounts.py",
    "tests/test_daemon.py",
)
# All that tests the money of the Ethereum engine in its own process, beside the chain's.
_ETHEREUM: Final = "engines/ethereum/"
_ETHEREUM_TESTS: Final = tuple(
    f"tests/engines/ethereum/test_{name}.py"
    for name in (
        *("abi", "doubts", "entries", "floods", "forgotten", "hostile", "payments"),
        *("receiving", "receiving_crashes", "reorganisations", "rpc", "scanning"),
        *("sending", "sending_crashes", "start", "trouble", "units", "verdicts"),
    )
)
_NODE: Final = "tests/engines/ethereum/node/node_modules"
_NEAR: Final = (
    *("tests/core", "tests/damage", "tests/neighbours", "tests/promises", "tests/store"),
    "tests/engines",
    "tests/test_amounts.py",
)
_COPIED: Final = ("settled", "engines", "tests", "docs", "pyproject.toml", "setup.cfg", "README.md")
_LIBRARIES: Final = (
    "_pytest.assertion.rewrite",
    "click.testing",
    "eth_account",
    "hypercorn.trio",
    "hypothesis.stateful",
    "hypothesis.strategies",
    "h2.connection",
    "httpx2",
    "msgspec",
    "outcome",
    "pytest_trio.plugin",
    "quart_trio",
    "sqlite_utils",
    "structlog",
    "tabulate",
    "trio.testing",
    "trustme",
)
_FIRST_FILES: Final = 2
_SLOW_S: Final = 1.0
_SLOWER: Final = 10
_TEST_S: Final = 10.0
# A mutant may write or read without end.
_LIMITS: Final = {resource.RLIMIT_FSIZE: 2**28, resource.RLIMIT_AS: 2**32}


def preload() -> None:
    """Import what every run needs and no mutant changes."""
    limit = sys.getrecursionlimit()
    for name in _LIBRARIES:
        importlib.import_module(name)
    sys.setrecursionlimit(limit)  # one of them raises it beyond what the stack holds


def copy_tree(to: Path) -> Path:
    """Copy what the tests need, and return where it is."""
    for name in _COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("*.pyc", "mutation", "node_modules")
            shutil.copytree(ROOT / name, to / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, to / name)
    (to / _NODE).symlink_to(ROOT / _NODE)
    return to


def memory() -> Path:
    """Return a directory in memory, if there is such a thing, where a sync costs nothing."""
    shm = Path("/dev/shm")
    return shm if shm.is_dir() else Path(tempfile.gettempdir())


@dataclass(frozen=True)
class Baseline:
    """How the tests do on the code as it is.

    Args:
        durations_s: of each test, by its node id.
        processes: the tests that start processes, of which no coverage is known.
        lines: for each file and line, the tests that run it.
        failed: tests that fail as it is; they are not used.
    """

    durations_s: dict[str, float]
    processes: list[str]
    lines: dict[str, dict[int, list[str]]]
    failed: list[str]

    def tests_for(self, file: str, lines: Iterable[int], within_s: float) -> list[str]:
        """Return the tests that may notice a change of these lines, or else of the module.

        First come those that bear its name, then those that test it from near by, of them those
        that are quick and run little else; last those that start processes, which may run any
        line. Together they take ``within_s`` at most.
        """
        by_line = self.lines.get(file, {})
        chosen = {test for line in lines for test in by_line.get(line, ())}
        if not chosen:  # it runs at import
            chosen = {test for tests in by_line.values() for test in tests} or {*self.durations_s}
        fit = chosen.union(self.processes).difference(self.failed)
        name = f"test_{Path(file).stem}"
        ordered = sorted(fit, key=lambda test: self._rank(test, name))
        left_s = within_s
        fitting: list[str] = []
        for test in ordered:
            if self.durations_s[test] <= left_s:
                left_s -= self.durations_s[test]
                fitting.append(test)
        return fitting

    def _rank(self, test: str, name: str) -> tuple[bool, bool, bool, bool, int]:
        named, near = name in _file(test), test.startswith(_NEAR)
        slow = self.durations_s[test] > _SLOW_S
        return test in self.processes, not named, not near, slow, self._breadth[test]

    @cached_property
    def _breadth(self) -> Counter[str]:
        """How many lines each test runs."""
        every = (tests for by_line in self.lines.values() for tests in by_line.values())
        return Counter(chain.from_iterable(every))


class _Recording:
    """Notes for each test how long it takes, what it runs, and whether it starts a process."""

    def __init__(self, tree: Path, files: Iterable[str]) -> None:
        self._tree = tree
        self._coverage = coverage.Coverage(
            data_file=None, include=[str(tree / file) for file in files], config_file=False
        )
        self._current = ""
        self._files = list(files)
        self.durations_s: dict[str, float] = {}
        self.failed: set[str] = set()
        self.processes: set[str] = set()
        sys.addaudithook(self._audit)
        self._coverage.start()

    def _audit(self, event: str, _args: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen":
            self.processes.add(self._current)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._current = nodeid
        self._coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.durations_s[report.nodeid] = self.durations_s.get(report.nodeid, 0) + report.duration
        if report.failed:
            self.failed.add(report.nodeid)

    def save(self, to: Path) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        lines = {}
        for file in self._files:
            by_line = data.contexts_by_lineno(str(self._tree / file))
            lines[file] = {line: [t for t in tests if t] for line, tests in by_line.items()}
        found = {
            "durations_s": self.durations_s,
            "processes": sorted(self.processes & self.durations_s.keys()),
            "lines": lines,
            "failed": sorted(self.failed),
        }
        to.write_text(json.dumps(found))


class _Chosen:
    """Runs the chosen tests, in their order, each within its time; notes the first that fails."""

    def __init__(self, tests: list[str], durations_s: dict[str, float], verdict: Path) -> None:
        self._rank = {test: rank for rank, test in enumerate(tests)}
        self._durations_s = durations_s
        self._verdict = verdict

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self._rank),
            key=lambda item: self._rank[item.nodeid],
        )

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._verdict.write_text(nodeid)
        # Not handled: it ends the process, wherever that hangs.
        signal.setitimer(signal.ITIMER_REAL, _TEST_S + _SLOWER * self._durations_s[nodeid])


def record(tree: Path, files: list[str], known: Path) -> Baseline:
    """Run the tests on the code as it is, unless ``known`` has it from an earlier run."""
    result = known / f"tests-{_digest(tree, files)}.json"

    def run() -> int:
        recording = _Recording(tree, files)
        code = _pytest(tree, tests_of(files), [recording])
        recording.save(result)
        return code

    if not result.exists():
        os.waitpid(fork(tree, run), 0)
        # The tree is copied next, and some of it leads to devices.
        shutil.rmtree(tree / "tmp", ignore_errors=True)
    found = json.loads(result.read_text())
    lines = {
        file: {int(line): tests for line, tests in by_line.items()}
        for file, by_line in found.pop("lines").items()
    }
    return Baseline(lines=lines, **found)


def tests_of(files: Iterable[str]) -> list[str]:
    """Return the tests that may notice a change of these modules."""
    of_ethereum = {file.startswith(_ETHEREUM) for file in files}
    return [
        *(TESTS if False in of_ethereum else ()),
        *(_ETHEREUM_TESTS if True in of_ethereum else ()),
    ]


def _digest(tree: Path, files: list[str]) -> str:
    digest = hashlib.sha256(repr(files).encode())
    for path in sorted(tree.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def start(tree: Path, tests: list[str], baseline: Baseline) -> int:
    """Start the chosen tests in a new process until one fails; return its pid."""
    verdict = tree / "verdict"

    def run() -> int:
        for group in _groups(tests):
            files = list(dict.fromkeys(map(_file, group)))
            chosen = _Chosen(group, baseline.durations_s, verdict)
            code = _pytest(tree, ["-x", *files], [chosen])
            if code != pytest.ExitCode.OK:
                break
        return code

    return fork(tree, run)


def _groups(tests: list[str]) -> list[list[str]]:
    """Return first the tests of the few files with the most of them, then the others.

    To collect all files takes longer than to run most of their tests.
    """
    first = {file for file, _ in Counter(map(_file, tests)).most_common(_FIRST_FILES)}
    groups = [
        [test for test in tests if _file(test) in first],
        [test for test in tests if _file(test) not in first],
    ]
    return [group for group in groups if group]


def _file(test: str) -> str:
    return test.split("::", maxsplit=1)[0]


def _pytest(tree: Path, arguments: list[str], plugins: list[object]) -> int:
    options = [
        "-q",
        *("-p", "no:cacheprovider"),
        *("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"),
        f"--basetemp={tree / 'tmp'}",
    ]
    return int(pytest.main([*options, *arguments], plugins=plugins))


def fork(tree: Path, run: Any) -> int:
    """Run ``run`` in a new process, in the tree, with nothing of the project imported yet."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        for kind, value in _LIMITS.items():
            resource.setrlimit(kind, (value, value))
        os.chdir(tree)
        output = os.open(tree / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for name in [*sys.modules]:
            if name.split(".")[0] in ("settled", "engines", "tests"):
                del sys.modules[name]
        sys.path.insert(0, str(tree))
        os.environ["PYTHONPATH"] = str(tree)
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        # The same examples each time; which is the smallest that fails is of no interest.
        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        hypothesis.settings.register_profile(
            "mutation", derandomize=True, database=None, phases=phases
        )
        hypothesis.settings.load_profile("mutation")
        code = run()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)
