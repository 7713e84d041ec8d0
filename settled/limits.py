"""Every limit of the program, in one place. Units are the last word of each name.

A limit that a stranger can reach is enforced where his bytes come in; the rest bound loops.
"""

from typing import Final

# What a request may carry.
BODY_BYTES_MAX: Final = 64 * 1024
ACCOUNT_ID_CHARS_MAX: Final = 255
SETTLEMENT_ID_CHARS_MAX: Final = 255
IDEMPOTENCY_KEY_CHARS_MAX: Final = 255
AMOUNT_DIGITS_MAX: Final = 1024
SCALE_MAX: Final = 255
STATE_KEY_CHARS_MAX: Final = 255
STATE_VALUE_BYTES_MAX: Final = 64 * 1024
REASON_CHARS_MAX: Final = 1000

# How long a client may take, and how long he is kept waiting.
HEADERS_BYTES_MAX: Final = 16 * 1024
HEADER_TIMEOUT_S: Final = 5
KEEP_ALIVE_S: Final = 120  # longer than clients keep an idle connection: none ends under a request
BODY_TIMEOUT_S: Final = 10
MESSAGE_HANDLER_TIMEOUT_S: Final = 4  # connectors give up after 5 s and send again
LINGER_S: Final = 1.0  # after an answer, for the rest of a body that is not wanted
LINGER_BYTES_MAX: Final = 1024 * 1024
HOOK_TIMEOUT_S: Final = 60
FIND_TIMEOUT_S: Final = 60
HALF_CLOSED_S: Final = 5  # for the answer to a client that sends no more, or has gone
SHUTDOWN_GRACE_S: Final = 10
SHUTDOWN_REST_S: Final = 0.8  # after the grace, for all to close; then the process ends hard
LOOP_BLOCKED_S: Final = 1.0  # an engine that keeps the event loop for longer is told of
RETRY_AFTER_S: Final = 1

# What all clients may take up together.
CONNECTIONS_MAX: Final = 1024  # but half of the process's descriptors at most
SPEAKING_MAX: Final = 256  # connections that have sent something
REQUESTS_BYTES_MAX: Final = 10 * 1024 * 1024  # of all requests under way
REQUEST_BYTES: Final = 32 * 1024  # what one takes up before its body
CONNECTION_UNCUT_S: Final = 0.1  # a newcomer has this long to speak before he makes room
NEWCOMERS_AT_ONCE: Final = 8  # who have sent a whole request
LINE_PATIENCE: Final = 3  # rounds of all other work for each one of the line
LINE_PAUSE_MAX_S: Final = 0.02
FULL_POLL_S: Final = 0.01
SHORTAGE_OVER_S: Final = 60  # after that, the next one is logged again

# What one of them may send at a time.
READ_BYTES_MAX: Final = 4096
ROUND_MAX: Final = 64  # connections that are read before others have their turn
LANE_REST_S: Final = 0.2  # for the rest of an ordinary request, before Hypercorn waits for it
STREAMS_MAX: Final = 100  # requests at once on one HTTP/2 connection
IDLE_FRAMES_MAX: Final = 200  # pings, settings, resets and the like on an HTTP/2 connection
IDLE_FRAMES_PER_ANSWER: Final = 10

# What we allow the connector.
CONNECTOR_CONNECT_TIMEOUT_S: Final = 5
CONNECTOR_TIMEOUT_S: Final = 10
MESSAGE_TIMEOUT_S: Final = 32  # the packet that carries a message expires after 30 s
CONNECTOR_REPLY_BYTES_MAX: Final = 64 * 1024
DELIVERIES_MAX: Final = 128
ARRIVALS_MAX: Final = 1024  # credits that are handed out as they come, and not sent yet
HANDED_OUT_S: Final = 1  # within which the core hears of a credit that the store handed out
CONNECTIONS_KEPT_MAX: Final = 224  # while nothing is sent on them
CONNECTION_KEPT_S: Final = 4  # servers end them after 5 s, and that may cross with a request
CONNECTION_REST_MAX_S: Final = 0.25
CONNECTION_REST_MIN_S: Final = 0.01  # when many rest
# All that are kept, when as many deliveries as may be are under way.
RESTING_MANY: Final = CONNECTIONS_KEPT_MAX - DELIVERIES_MAX
TLS_LOOK_S: Final = 0.001
MESSAGES_MAX: Final = 128
LOOK_UPS_MAX: Final = 4  # of the connector's name at once: each may hang for long in a thread
DELIVERIES_PER_ACCOUNT_MAX: Final = 8

# What is done at once.
SETTLING_ACCOUNTS_MAX: Final = 10_000  # an engine that never returns holds one of these places
SWITCH_INTERVAL_S: Final = 0.0001  # of Python's threads
# Then what changed goes into the database itself. The index of a log of over 4,062 pages has to
# grow, for which a full disk may have no room in the middle of a commit.
LOG_PAGES_MAX: Final = 3500
ACCOUNTS_KEPT_MAX: Final = 10_000  # that the hot path remembers
PAGES_KEPT_BYTES: Final = 16 * 1024 * 1024  # of the database, by who writes to it
SETTLE_REST_S: Final = 1.0  # of an account between two payments; what comes meanwhile is netted
HOOKS_MAX: Final = 100
EXPEDITE_EVERY_S: Final = 10

# Retries: exponential with full jitter (RFC 0038 asks for at most an hour between attempts).
RETRY_DELAY_MIN_S: Final = 0.1
RETRY_DELAY_MAX_S: Final = 3600.0

# How often the log says the same of the same account, and that it has changed.
TELL_AGAIN_S: Final = 600
TELL_CHANGE_S: Final = 10

# Connectors forget a credit's key 24 h after its first use; we stop an hour earlier.
AMBIGUOUS_AGE_MAX_MS: Final = 23 * 3600 * 1000

# Idempotency keys live in ticks of running time, so that no jump of the clock ends one early. A use
# renews a key only in the second half of its life: 24 h after any use it is still known.
KEY_TICK_S: Final = 600
KEY_LIFE_TICKS: Final = 48 * 3600 // KEY_TICK_S
PURGE_BATCH_ROWS: Final = 1000

# The store.
BUSY_TIMEOUT_S: Final = 2  # behind a batch that finds it busy, twice that: a client waits 5 s
COMMIT_BATCH_MAX: Final = 1000
READERS_MAX: Final = 4
PAGE_ROWS_MAX: Final = 1000
FOREIGN_WRITE_POLL_S: Final = 0.05
DISK_RESERVE_BYTES: Final = 64 * 1024 * 1024  # kept free for what is under way
DISK_POLL_S: Final = 1.0
DISK_FULL_PAUSE_S: Final = 10.0  # after a write that found no room, whatever the disk says
START_CHECK_BYTES_MAX: Final = 16 * 1024 * 1024  # checked whole before a start; more, beside it

# No request of ours is silent for longer: its body, a busy store, and the engine's handler. What is
# silent for longer is a client that holds an HTTP/2 connection open and asks for nothing.
SILENCE_S: Final = HEADER_TIMEOUT_S + BODY_TIMEOUT_S + BUSY_TIMEOUT_S + MESSAGE_HANDLER_TIMEOUT_S
