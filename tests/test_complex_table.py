"""The table of docs/complex.md: what it says of Paddle and Pirol is so today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pirol.bench import complex_table
from pirol.bench.complex_table import BEGIN, END, cells, judged

PAGE = Path(__file__).resolve().parent.parent / "docs" / "complex.md"


@pytest.mark.full
def test_the_table_is_true() -> None:
    made = cells(f"{BEGIN}{complex_table.table(None)}\n{END}")
    page = cells(PAGE.read_text())
    assert made.keys() == page.keys()
    for name, row in made.items():
        assert row == {k: page[name][k] for k in row}, name


def test_what_is_lacking_is_told() -> None:
    text = PAGE.read_text()
    _, _, notes = text.partition("Pirol has no kernel:")
    for name, row in cells(text).items():
        others = "yes" in (row["PyTorch"], row["JAX"])
        if others and not row["Pirol"].startswith("yes"):
            assert name in notes, name
        if others and row["Pirol"].startswith("yes"):
            assert row["Pirol, CUDA"] == "yes", name


def test_cells_say_what_happened() -> None:
    def fails() -> Any:
        raise TypeError

    assert judged(lambda: [1, 2j], complex_table.np.array([1, 2j])) == "yes"
    assert judged(lambda: [1, 2], complex_table.np.array([1, 2j])) == "wrong"
    assert judged(fails, complex_table.np.array([1])) == "-"
