"""Options of the test run."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """--update-docs writes the outputs shown in the docs anew."""
    parser.addoption("--update-docs", action="store_true", default=False)
