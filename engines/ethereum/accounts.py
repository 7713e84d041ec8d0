"""``eth_account``, without what importing it does to the whole process.

A library beneath it sets the recursion limit to 100,000, more than the stack holds: then JSON of a
stranger that is nested deep enough ends the daemon, which with Python's own limit refuses it.
"""

import sys

_limit = sys.getrecursionlimit()
try:
    from eth_account import Account
finally:
    sys.setrecursionlimit(_limit)

__all__ = ["Account"]
