"""The docs say what the program does."""

import inspect
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import httpx2
import pytest
import trio

import settled
import settled.errors
from settled.store.sqlite import open_sqlite
from tests.daemon_process import daemon_process, ended
from tests.docs import ROOT, commands, pages

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", sorted(pages()))
def test_generated_parts_are_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text() == pages()[name], "run `make docs`"


def test_every_command_has_examples() -> None:
    for path, text in commands():
        assert "Examples:" in text, path
        assert f"  {path.split()[0]} " in text.split("Examples:")[1], path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_docs_exist(page: Path) -> None:
    known = {path for path, _ in commands()}
    groups = {path.rpartition(" ")[0] for path in known} - {"", "settled"}
    named = re.findall(r"(?:^ {4}|`)((?:settled) [a-z]+(?: [a-z]+)?)", page.read_text(), re.M)
    for line in named:
        command = " ".join(line.split()[:2])
        assert command in known, line
        if command in groups and len(line.split()) == 3:
            assert line in known, line


def test_everything_exported_is_documented() -> None:
    for name in settled.__all__:
        thing = getattr(settled, name)
        if isinstance(thing, type) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), name


def test_exit_codes_are_those_of_the_program() -> None:
    table = (ROOT / "docs/operators.md").read_text().split("## Exit codes")[1]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)}
    classes = [settled.errors.SettledError]
    for known in classes:
        classes += known.__subclasses__()
    assert {known.exit_code for known in classes} | {0, 2} == documented


async def test_the_engine_of_the_readme_pays(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- engine -->\n```python\n# (\S+)\n(.*?)```", readme, re.S)
    assert block is not None
    (tmp_path / block[1]).write_text(block[2])
    module = Path(block[1]).stem
    assert f"settled run --engine {module}:connect" in readme
    assert len(block[2].strip().splitlines()) <= 25
    with daemon_process(tmp_path, "--engine", f"{module}:connect") as daemon:
        async with (
            httpx2.AsyncClient(trust_env=False, base_url=daemon.url) as client,
            open_sqlite(tmp_path / "settled.db", exclusive=False) as store,
        ):
            await client.post("/accounts", json={"id": "alice"})
            response = await client.post(
                "/accounts/alice/settlements",
                json={"amount": "60025", "scale": 2},
                headers={"Idempotency-Key": "1"},
            )
            assert response.status_code == 201
            with trio.fail_after(10):
                while (await store.account("alice")).waiting != "the till is locked":  # noqa: ASYNC110
                    await trio.sleep(0.05)
                (tmp_path / "till").mkdir()
                while (await store.account("alice")).settled != Decimal("600.25"):  # noqa: ASYNC110
                    await trio.sleep(0.05)
            paid = [s.settled for s in await store.settlements(state="settled")]
        daemon.process.terminate()
        assert await ended(daemon.process, within_s=10) == 0
    assert paid == [Decimal("100.25"), 500]
    assert len(list((tmp_path / "till").iterdir())) == 2


def test_the_module_runs_as_a_program() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "settled", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout == f"settled {settled.__version__}\n"
