"""Options of the test run."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from hypothesis import settings

# `make test` draws the same examples each time; `make fuzz` draws new ones.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("fuzz", deadline=None, print_blob=True)
settings.load_profile("steady")


def pytest_addoption(parser: pytest.Parser) -> None:
    """--update-docs writes the outputs shown in the docs anew, --update-golden tables
    of what the tests found; --graph: one graph."""
    for name in ("--update-docs", "--update-golden"):
        parser.addoption(name, action="store_true", default=False)
    parser.addoption("--graph", metavar="SEED:NUMBER", help="of test_kernels_many.py")


# Files that take long, longest first: whoever runs the last file runs it alone.
LONG = (
    *("kernels_many", "docs", "decompositions_sampling", "captured_gradients"),
    *("primitives", "max_pool", "cuda_device", "graphnet_bench", "cudnn", "cublas"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, the others as they are."""
    places = {f"test_{name}": k for k, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="module", autouse=True)
def _kept() -> None:
    """What is there before a file's tests stays: no search for garbage looks at it."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def float64() -> Iterator[None]:
    """Layers made in the test are of float64."""
    import paddle

    paddle.set_default_dtype("float64")
    yield
    paddle.set_default_dtype("float32")
