"""The tests of the client use the server of the server's tests."""

from tests.server.conftest import demo_served

__all__ = ["demo_served"]
