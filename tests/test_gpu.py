"""On a GPU: the random graphs of test_kernels_many.py, their kernels' very text."""

from __future__ import annotations

import pytest
from cuda_gpu import Gpu, has_gpu
from graph_case import agree
from graph_runs import Program
from graphs import rolled, rolled_sizes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not has_gpu(), reason="no NVIDIA GPU"),
]
CHUNKS, CHUNK = 32, 30


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_graphs_agree(chunk: int) -> None:
    numbers = range(chunk * CHUNK, (chunk + 1) * CHUNK)
    cases = [rolled(0, number) for number in numbers]
    program = Program([c.graph for c in cases], whole=chunk % 4 == 3, device=Gpu)
    for k, (number, case) in enumerate(zip(numbers, cases)):
        for turn, sizes in enumerate(rolled_sizes(0, number, 2)):
            data = 2 * number + turn
            arrays = case.arrays(sizes, data, special=turn == 1)
            at = f"graph 0:{number}, sizes {sizes}, data {data}"
            agree(
                case.expected(sizes, arrays), program.cuda(k, arrays, data % 4 + 1), at
            )
