"""Fixtures of the HTTP tests, for these too."""

from tests.http.conftest import client, operations, served

__all__ = ["client", "operations", "served"]
