"""A deterministic simulation of daemons, connectors, peers and a ledger, with faults everywhere.

One process, one thread, virtual time: trio's mock clock and its scheduler, seeded. The store is the
real one on real SQLite files, but for its writing thread; core, engine services, the connector's
client and the HTTP handlers are the real ones. Disk, network, ledger, engine and connectors are
simulated, and fail at the rates that a seed draws. One seed is one run, exactly.

    make simulate SEEDS=1000
    python -m tests.simulation --seed 4711 --trace
"""
