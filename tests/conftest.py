"""Options of the test run."""

from __future__ import annotations

import pytest
from hypothesis import settings

# `make test` draws the same examples each time; `make fuzz` draws new ones.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("fuzz", deadline=None, print_blob=True)
settings.load_profile("steady")


def pytest_addoption(parser: pytest.Parser) -> None:
    """--update-docs writes the outputs shown in the docs anew; --graph: one graph."""
    parser.addoption("--update-docs", action="store_true", default=False)
    parser.addoption("--graph", metavar="SEED:NUMBER", help="of test_kernels_many.py")
