"""Fixtures of the tests of bad input."""

from tests.support.bad_input import channels, client, ledger

__all__ = ["channels", "client", "ledger"]
