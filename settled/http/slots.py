"""What all clients take up together, and which of them makes room for the others.

The honest client is one connector, whose requests arrive whole and at once; whoever floods us
keeps us waiting. So three things are bounded, and beyond a bound the client who has kept us waiting
the longest, or holds the most meanwhile, is closed: open connections, those among them that have
begun to speak, and the memory of requests under way. From the end of his request until its answer
begins a client waits on us, not we on him, and is never closed for another; while all are like
that, newcomers wait.

The processor is shared too. Whoever comes anew, or sends more and is not answered, stands in a line
with the others who do: of those in the line one is attended to at a time, however many there are.
An answer is good for a turn out of the line. Newcomers who ask at once, and in full, have a line of
their own, of which a few are attended to in each round of all other work.
"""

import resource
from collections.abc import Callable, Iterable
from errno import EMFILE

import structlog
import trio

from settled import limits

log = structlog.get_logger()


class Slot:
    """The place of one open connection.

    Args:
        slots: all places.
        cut: closes the connection.

    Attributes:
        speaking: whether the client has begun to speak.
        held_bytes: what its requests under way take up.
        whole_requests: how many of them are whole, so that their client waits for us.
        answered: whether any of them was answered.
        waiting_since: otherwise, when we began to wait for him.
    """

    def __init__(self, slots: "Slots", cut: Callable[[], None]) -> None:
        self.cut = cut
        self.speaking = False
        self.held_bytes = 0
        self._slots = slots
        self.whole_requests = 0
        self.answered = False
        self._free_turn = False
        self.waiting_since = trio.current_time()

    async def speak(self, *, in_full: bool) -> None:
        """Wait until it is this client's turn to begin.

        Args:
            in_full: whether a whole request is there already.
        """
        self.whole_requests += in_full
        async with self._slots.short_line if in_full else self._slots.line:
            if in_full:  # it costs little more than the answer
                await trio.lowlevel.checkpoint()
            else:
                await _go_slowly()
            await self._slots.room_to_speak()
            self.speaking = True
        self.whole_requests -= in_full
        self.waiting_since = trio.current_time()

    async def turn(self) -> None:
        """Wait until what this client sent may be attended to."""
        if self._free_turn:
            self._free_turn = False
            return
        async with self._slots.line:
            await _go_slowly()

    def room_for_request(self) -> bool:
        """Return whether one more request may be begun now."""
        return self._slots.room_for_request()

    def hold(self, held_bytes: int) -> None:
        """Count so much memory of a request (a negative number gives it back)."""
        self.held_bytes += held_bytes
        self._slots.hold(held_bytes)

    def request_whole(self) -> None:
        """Note that a request has come in whole: now its client waits for us."""
        self.whole_requests += 1

    def answer_begun(self) -> None:
        """Note that the answer to a whole request begins: it is up to its client to take it."""
        self.whole_requests -= 1
        self.answered = True
        self._free_turn = True
        self.waiting_since = trio.current_time()


class Slots:
    """The places of all open connections.

    Attributes:
        line: where those stand who have no turn.
        short_line: where newcomers stand who have sent a whole request.
    """

    def __init__(self) -> None:
        self.line = trio.Lock()
        self.short_line = trio.Semaphore(limits.NEWCOMERS_AT_ONCE)
        # The rest of the descriptors is for the store, the connector (beside those that credits
        # are sent on, others rest) and the ledger.
        descriptors_max, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._connections_max = min(limits.CONNECTIONS_MAX, descriptors_max // 2)
        self._slots: set[Slot] = set()
        self._held_bytes = 0
        self._warned_at: dict[str, float] = {}

    def take(self, cut: Callable[[], None]) -> Slot:
        """Return a place for a new connection, which ``cut`` closes."""
        slot = Slot(self, cut)
        self._slots.add(slot)
        return slot

    def leave(self, slot: Slot) -> None:
        """Give a place back; more than once is fine."""
        self._slots.discard(slot)

    def close_silent(self) -> None:
        """Close the connections whose clients have not begun to speak."""
        for slot in [slot for slot in self._slots if not slot.speaking]:
            self._close(slot)

    @property
    def full(self) -> bool:
        """Whether as many connections are open as may be."""
        return len(self._slots) >= self._connections_max

    async def room_to_connect(self) -> None:
        """Wait until one more connection may be open."""
        while self.full:
            self._warn("connections_full", open=len(self._slots))
            if not self._close_longest_waiting(self._slots):
                await trio.sleep(limits.FULL_POLL_S)

    async def room_to_speak(self) -> None:
        """Wait until one more client may speak."""
        while len(speaking := self._speaking()) >= limits.SPEAKING_MAX:
            self._warn("connections_busy", speaking=len(speaking))
            if not self._close_longest_waiting(speaking):
                await trio.sleep(limits.FULL_POLL_S)

    async def out_of_descriptors(self, error: OSError) -> None:
        """Make room after a connection could not be accepted."""
        self._warn("cannot_accept", reason=error.strerror, open=len(self._slots))
        if error.errno == EMFILE:
            self._close_longest_waiting(self._slots)
        await trio.sleep(limits.FULL_POLL_S)

    def room_for_request(self) -> bool:
        """Return whether there is memory for one more request; try to make some if there is not."""
        if self._held_bytes < limits.REQUESTS_BYTES_MAX:
            return True
        self._close_largest_waiting()
        return False

    def hold(self, held_bytes: int) -> None:
        """Count memory."""
        self._held_bytes += held_bytes
        if held_bytes > 0 and self._held_bytes > limits.REQUESTS_BYTES_MAX:
            self._close_largest_waiting()

    def _speaking(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.speaking]

    def _close_longest_waiting(self, slots: Iterable[Slot]) -> bool:
        longest = min(_keeping_us_waiting(slots), key=lambda slot: slot.waiting_since, default=None)
        if longest is None:
            return False
        self._close(longest)
        return True

    def _close_largest_waiting(self) -> None:
        self._warn("requests_full", held_bytes=self._held_bytes)
        waiting = _keeping_us_waiting(self._slots)
        largest = max(waiting, key=lambda slot: slot.held_bytes, default=None)
        if largest is not None and largest.held_bytes:
            self._close(largest)

    def _close(self, slot: Slot) -> None:
        self.leave(slot)
        slot.cut()

    def _warn(self, event: str, **values: object) -> None:
        """Log a shortage once, and again only after it has been over for a while."""
        now = trio.current_time()
        warned_at = self._warned_at.get(event)
        self._warned_at[event] = now
        if warned_at is None or now > warned_at + limits.SHORTAGE_OVER_S:
            log.warning(event, **values, action="closing the connections that ask for nothing")


def _keeping_us_waiting(slots: Iterable[Slot]) -> list[Slot]:
    late = trio.current_time() - limits.CONNECTION_UNCUT_S
    return [slot for slot in slots if not slot.whole_requests and slot.waiting_since <= late]


async def _go_slowly() -> None:
    """Hold up the line for as long as the others need: the busier they are, the longer."""
    begun = trio.current_time()
    await trio.lowlevel.checkpoint()
    round_s = trio.current_time() - begun
    await trio.sleep(min(limits.LINE_PATIENCE * round_s, limits.LINE_PAUSE_MAX_S))
