"""A sample of ``make hostile``: each attack for a moment, while a connector goes on."""

import gc
from collections.abc import Iterator

import pytest
import trio

from tests.daemon_process import DaemonProcess, daemon_process
from tests.hostile import crowd
from tests.hostile.attacks import ATTACKS
from tests.hostile.healthy import Cost, Healthy, descriptors, open_account

SECONDS = 0.3
GROWTH_MIB_MAX = 40  # for all of them together; see the campaign for the bar of each


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with daemon_process(tmp_path_factory.mktemp("attacked"), "--engine", "loopback") as daemon:
        trio.run(open_account, int(daemon.url.rpartition(":")[2]))
        yield daemon


@pytest.fixture(scope="module")
def cost(daemon: DaemonProcess) -> Cost:
    return Cost(daemon.process.pid)


@pytest.mark.parametrize("name", ATTACKS)
async def test_the_connector_is_served_meanwhile(
    daemon: DaemonProcess, cost: Cost, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowd, "share", 0.2)
    port, pid = int(daemon.url.rpartition(":")[2]), daemon.process.pid
    healthy = Healthy(port, pid)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cost.watch)
        nursery.start_soon(ATTACKS[name], port)
        await trio.sleep(0.1)
        nursery.start_soon(healthy.run)
        await trio.sleep(SECONDS)
        with trio.fail_after(10):
            while not healthy.latencies_s:  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert healthy.refused == []
    assert daemon.process.poll() is None
    assert cost.growth_mib < GROWTH_MIB_MAX


async def test_nothing_of_them_is_left_behind(daemon: DaemonProcess) -> None:
    gc.collect()
    with trio.fail_after(20):
        while descriptors(daemon.process.pid) > 60:  # noqa: ASYNC110
            await trio.sleep(0.05)
