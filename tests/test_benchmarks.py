"""The benchmarks can be trusted: they notice what is lost, made up or refused."""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import __main__ as program
from benchmarks import books, load, page, report, tools
from benchmarks.chart import chart
from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figures, Limit, Ratio, Series
from benchmarks.filling import Size, fill, schema_name
from benchmarks.measures import asking, settlements
from benchmarks.plan import Plan
from benchmarks.sides import NO_CONNECTOR, Side
from benchmarks.sides.daemon import DB, SETTLED, daemon
from benchmarks.sides.floor import BARE
from benchmarks.sides.original import ORIGINAL
from benchmarks.sides.original import PEER as PEER_DIRECTORY

NEEDED = {
    SETTLED: tools.LOAD,
    BARE: tools.LOAD,
    ORIGINAL: (*tools.LOAD, *tools.ORIGINAL),
}
SEEN = {
    "requests": 2000,
    "sent": 2010,
    "duration_us": 500_000,
    "p50_us": 1500,
    "p99_us": 4000,
    "max_us": 9000,
    "refused": 0,
    "broken": 0,
}


def output(**changed: int) -> str:
    return f"Running 1s test\n  10 connections\n\nload: {json.dumps(SEEN | changed)}\n"


def silent(_text: str) -> None:
    pass


def made(directory: Path, size: Size) -> Path:
    path = directory / DB
    fill(path, size, silent)
    return path


def test_what_wrk_says_is_read() -> None:
    seen = load.parse(output())
    assert (seen.requests, seen.sent, seen.rate) == (2000, 2010, 4000)
    assert (seen.p50_ms, seen.p99_ms, seen.max_ms) == (1.5, 4, 9)


@pytest.mark.parametrize("changed", [{"refused": 1}, {"broken": 1}, {"requests": 0}])
def test_no_failed_request_is_allowed(changed: dict[str, int]) -> None:
    with pytest.raises(BenchmarkError):
        load.parse(output(**changed))


def test_output_without_figures_is_refused() -> None:
    with pytest.raises(BenchmarkError, match="no figures"):
        load.parse("unable to connect to 127.0.0.1:1 Connection refused")


def test_a_missing_and_a_surplus_request_are_noticed() -> None:
    seen = load.parse(output())
    for found in (2000, 2005, 2010):
        books.check(seen, found, 10, "x")
    for found in (1999, 2011):
        with pytest.raises(BenchmarkError, match="on record"):
            books.check(seen, found, 10, "x")
    with pytest.raises(BenchmarkError, match="on record"):
        books.check(seen, 2006, 5, "x")


def test_a_large_database_has_its_books_in_order(tmp_path: Path) -> None:
    path = made(tmp_path, Size(accounts=200, keys=3, credits=301))
    books.audit(path)
    assert books.kept(path, "") == 600
    with closing(sqlite3.connect(path)) as conn:
        count = conn.execute("SELECT count(*) FROM credits WHERE state = 'undelivered'").fetchone()
        keys = conn.execute("SELECT count(DISTINCT account_id) FROM idempotency_keys").fetchone()
    assert (count, keys) == ((301,), (200,))


def test_a_key_without_its_entry_is_noticed(tmp_path: Path) -> None:
    path = made(tmp_path, Size(accounts=2, keys=2))
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("DELETE FROM idempotency_keys WHERE key = (SELECT ref FROM journal LIMIT 1)")
        conn.commit()
    with pytest.raises(BenchmarkError, match="3 keys, but 4 entries"):
        books.kept(path, "")


def test_wrong_books_are_noticed(tmp_path: Path) -> None:
    path = made(tmp_path, Size(accounts=2, keys=2))
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("UPDATE accounts SET settled = '1' WHERE number = 1")
        conn.commit()
    with pytest.raises(BenchmarkError, match="a0"):
        books.audit(path)


def test_a_daemon_takes_up_a_filled_database(tmp_path: Path) -> None:
    path = made(tmp_path, Size(accounts=100, credits=200))
    with (
        asking.connector(tmp_path) as connector,
        daemon(tmp_path, connector.url, db=path) as process,
    ):
        asking.wait_for(connector, "different", 200)
        asked = asking.ask(process.url, connector, "credit", 100)
        sent = asking.ask(process.url, connector, "send", 100)
        assert process.peak_bytes() > 1e6
    assert asked.rate > 0
    assert sent.rate > 0
    books.audit(path)


@pytest.mark.parametrize("side", NEEDED, ids=lambda side: side.name)
def test_a_side_keeps_what_it_acknowledges(side: Side, tmp_path: Path) -> None:
    if lacking := tools.missing(NEEDED[side]):
        pytest.skip(f"{', '.join(lacking)} not installed: `make bench` installs it")
    if side is ORIGINAL:
        tools.provide_peer()
    with side.start(tmp_path, NO_CONNECTOR) as running:
        seen = settlements.under_load(running, side, "t-", 4, 1)
        assert running.kept("t-") >= seen.requests > 50
        assert running.kept("never-sent-") == 0


def figures() -> Figures:
    found = Figures()
    for rate in (3000.0, 3600.0, 3300.0):
        found.add("settlements", "32 connections", "settled", "requests/s", rate)
        found.add("settlements", "32 connections", "original", "requests/s", rate / 3)
    return found


def test_ratios_are_of_medians_and_of_rounds() -> None:
    of = figures().of("settlements", "32 connections", "requests/s")
    ratio = Ratio("more", of["settled"], of["original"], 3.5)
    assert (ratio.value, ratio.low, ratio.high) == (3, 3, 3)
    assert not ratio.holds
    assert Ratio("less", of["original"], of["settled"], 0.5, "most").holds
    assert not Limit("fast", of["settled"], 3500).holds  # no round may be over it


def test_the_page_and_the_chart_show_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "performance.md").write_text(f"before\n{page.BEGIN}\nformer\n{page.END}\nafter\n")
    series = figures().all()
    bars = [Ratio("much <more>", series[0], series[1], 2)]
    titles = {"settled": "settled & sons", "original": "the original"}
    for _ in range(2):
        page.write(
            series, bars, {"processor": "one"}, titles, command="x", at="today", docs=tmp_path
        )
    text = (tmp_path / "performance.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "former" not in text
    assert "3,300 requests/s" in text
    assert "3.00 times" in text
    drawn = ElementTree.fromstring((tmp_path / "performance.svg").read_text())
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "settled & sons" in texts
    widths = [float(e.get("width", 0)) for e in drawn.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[0] == pytest.approx(3 * widths[1], rel=0.02)


def test_the_sides_of_a_case_stand_together_in_the_chart() -> None:
    measured = [
        Series("m", case, side, "requests/s", (1.0,)) for side in ("a", "b") for case in ("1", "32")
    ]
    drawn = ElementTree.fromstring(chart(measured, {}))
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == [
        *("m, 1 (requests/s)", "a", "1.00", "b", "1.00"),
        *("m, 32 (requests/s)", "a", "1.00", "b", "1.00"),
    ]


def test_a_chart_of_nothing_is_still_a_chart() -> None:
    ElementTree.fromstring(chart([], {}))


def test_figures_are_found_in_json() -> None:
    series = figures().all()
    found = report.as_json(series, [], {"kernel": "x"}, command="make bench", at="today")
    assert json.loads(json.dumps(found))["figures"][0]["median"] == 3300


def test_the_page_has_a_place_for_figures() -> None:
    text = (page.DOCS / "performance.md").read_text()
    assert text.index(page.BEGIN) < text.index(page.END)


def test_the_lock_file_names_no_host_that_packages_come_from() -> None:
    lock = json.loads((PEER_DIRECTORY / "package-lock.json").read_text())
    packages = lock["packages"]
    assert packages["node_modules/ilp-settlement-core"]["version"] == "0.1.1"
    assert not [name for name, package in packages.items() if "resolved" in package]


def test_every_bar_names_sides_that_are_measured() -> None:
    found = Figures()
    for side in program.MEASURES["settlements"].sides:
        for connections in settlements.CONNECTIONS:
            for unit in (settlements.RATE, settlements.P99):
                found.add("settlements", settlements.case_of(connections), side.name, unit, 1.0)
    assert len(list(settlements.bars(found))) == 7
    assert Plan(1, 1, found, silent).rounds == 1
    assert re.fullmatch(r"\d{4}_\w+", schema_name())
