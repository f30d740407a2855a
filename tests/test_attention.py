"""Attention by cuDNN: exported programs on stand-ins for it and for the driver."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import paddle
import pytest
from attention_cases import CASES, Case, near
from cuda_simulator_build import has_compiler
from cuda_stand_in import Device, Library, device, dnn, library
from test_cuda_device import back, on_device
from test_export import SPEC, data

import pirol
from pirol.compiler.interpreter import interpret
from pirol.compiler.loaded import Program
from pirol.passes.attention import attention

__all__ = ["device", "dnn", "library"]  # fixtures
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not has_compiler(), reason="the simulator needs g++"),
]
F = paddle.nn.functional
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
B, H, S, T, D = 2, 3, 5, 7, 16


@pytest.fixture(autouse=True)
def _gives_back(device: Device) -> Any:
    """Each test gives back what it took."""
    gc.collect()
    before = device.live
    yield
    gc.collect()
    assert (device.live, device.depth) == (before, 0)


def halves(*shapes: Sequence[int]) -> list[Any]:
    """Numbers of bfloat16, as arrays."""
    return [(data(*shape) / 2).astype(BFLOAT16) for shape in shapes]


def loaded(function: Any, path: Path, *given: Any, **options: Any) -> Any:
    """The function of such arrays, exported and loaded on the device."""

    def tensor(x: Any) -> Any:
        half = x.dtype == BFLOAT16
        made = paddle.to_tensor(x.astype("float32") if half else x)
        return made.astype("bfloat16") if half else made

    compiled = pirol.to_static(function, **options)
    with paddle.no_grad():
        compiled(*map(tensor, given))
    pirol.export(compiled, str(path), target="cuda:sm_90")
    return pirol.load(path, device="cuda")


def meaning(q: Any, k: Any, v: Any, added: Any = 0.0, scale: float = 1.0) -> Any:
    """Of an attention, in float64, element by element as it is defined."""
    q, k, v = (np.asarray(x).astype("float64") for x in (q, k, v))
    scores = q @ k.swapaxes(-1, -2) * scale + added
    with np.errstate(invalid="ignore"):
        powers = np.exp(scores - scores.max(-1, keepdims=True, initial=-np.inf))
        return powers / powers.sum(-1, keepdims=True) @ v


@pytest.mark.parametrize("case", CASES, ids=str)
def test_as_the_interpreter_has_it(case: Case, dnn: Library) -> None:
    """The graph, the graph with one step for all of it, and the device."""
    given, graph = case.data(1), case.graph()
    expected = case.expected(*given)
    made = attention(graph)
    assert "attention" in [op.name for op in made.ops]
    near(interpret(graph, given)[0], expected)
    near(interpret(made, given)[0], expected)
    near(Program(case.archive(), 0)(*given), expected)


def plain(q: Any, k: Any, v: Any) -> Any:
    scores = paddle.matmul(q, k, transpose_y=True) / 4.0
    return paddle.matmul(F.softmax(scores, -1), v)


def scaled_first(q: Any, k: Any, v: Any) -> Any:
    scores = paddle.matmul(q * 0.25, k, transpose_y=True)
    return paddle.matmul(F.softmax(scores, -1), v)


def added(q: Any, k: Any, v: Any, mask: Any) -> Any:
    scores = paddle.matmul(q, k, transpose_y=True) * 0.25 + mask
    return paddle.matmul(F.softmax(scores, -1), v)


def chosen(q: Any, k: Any, v: Any, seen: Any) -> Any:
    scores = paddle.matmul(q, k, transpose_y=True) * 0.25
    scores = paddle.where(seen, scores, paddle.full_like(scores, -math.inf))
    return paddle.matmul(F.softmax(scores, -1), v)


def filled(q: Any, k: Any, v: Any, hidden: Any) -> Any:
    scores = paddle.matmul(q, k, transpose_y=True) * 0.25
    scores = paddle.where(hidden, paddle.full_like(scores, -1e9), scores)
    return paddle.matmul(F.softmax(scores, -1), v)


def packed(x: Any) -> Any:
    """Queries, keys and values behind each other, heads within; as layers have it."""
    q, k, v = x.reshape([0, 0, 3, H, D]).transpose([2, 0, 3, 1, 4]).unbind(0)
    return plain(q, k, v).transpose([0, 2, 1, 3])


QKV = ((B, H, S, D), (B, H, T, D), (B, H, T, 24))


@pytest.mark.parametrize("function", [plain, scaled_first])
def test_attention(function: Any, dnn: Library, device: Device, tmp_path: Path) -> None:
    """All of it, and the number that queries or scores are multiplied by, one step."""
    given = halves(*QKV)
    run, before = loaded(function, tmp_path / "f", *given), dnn.count("attentions")
    launches = device.launches
    found = run(*given)
    assert dnn.count("attentions") - before == 1 and found.dtype == BFLOAT16
    assert device.launches == launches
    near(found, meaning(*given, scale=0.25))


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
@pytest.mark.parametrize("masks", [False, True])
def test_mixed_precision(half: str, masks: bool, dnn: Library, tmp_path: Path) -> None:
    """Of float32 inputs, and a mask of which a half has no such number."""
    dtype = BFLOAT16 if half == "bfloat16" else np.dtype(half)
    given = [(data(*shape) / 2).astype(dtype).astype("float32") for shape in QKV]
    if masks:
        given.append(np.where(data(S, T) > 0, np.float32(-1e9), np.float32(0.5)))
    function = added if masks else plain
    run = loaded(function, tmp_path / "f", *given, amp=half)
    before = dnn.count("attentions")
    near(run(*given), meaning(*given, scale=0.25))
    assert dnn.count("attentions") - before == 1


def test_one_head(dnn: Library, tmp_path: Path) -> None:
    """Batches alone, and matrices alone."""
    for k, lead in enumerate([(3,), ()]):
        given = halves((*lead, S, D), (*lead, T, D), (*lead, T, 8))
        run, before = loaded(plain, tmp_path / str(k), *given), dnn.count("attentions")
        near(run(*given), meaning(*given, scale=0.25))
        assert dnn.count("attentions") - before == 1


def holes(*shape: int) -> Any:
    """True here and there; nowhere in one row, everywhere in another."""
    seen = data(*shape) > -0.2
    seen[..., 1, :], seen[..., 0, :] = False, True
    return seen


MASKS = ((B, 1, 1, T), (S, T), (1, 1, S, T), (B, H, S, T), (T,))


@pytest.mark.parametrize("shape", MASKS, ids=str)
@pytest.mark.parametrize("low", [-math.inf, -1e4, -3.3e38])
def test_masks_that_are_added(
    shape: Any, low: float, dnn: Library, tmp_path: Path
) -> None:
    """A row that -inf hides is NaN; one that a number hides is a mean."""
    q, k, v = halves(*QKV)
    seen = holes(*shape) if len(shape) > 1 and shape[-2] > 1 else data(*shape) > -0.2
    mask = np.where(seen, data(*shape), low).astype(BFLOAT16)
    run, before = loaded(added, tmp_path / "f", q, k, v, mask), dnn.count("masked")
    found = run(q, k, v, mask)
    assert dnn.count("masked") - before == 1
    # As halves and float32 have it, beside a large number a score is nothing.
    scores = meaning_scores(q, k) + mask.astype("float32")
    near(found, meaning_of(scores, v))
    assert np.isnan(np.asarray(found).astype("float32")).any() == (
        low == -math.inf and not seen.any(-1).all()
    )


def meaning_scores(q: Any, k: Any) -> Any:
    wide = q.astype("float32") @ k.astype("float32").swapaxes(-1, -2)
    return np.asarray(wide * np.float32(0.25), "float32")


def meaning_of(scores: Any, v: Any) -> Any:
    with np.errstate(invalid="ignore"):
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True) @ v.astype("float64")


@pytest.mark.parametrize("shape", MASKS[:4], ids=str)
@pytest.mark.parametrize("function", [chosen, filled])
def test_masks_that_choose(
    function: Any, shape: Any, dnn: Library, tmp_path: Path
) -> None:
    q, k, v = (x.astype("float32") for x in halves(*QKV))
    seen = holes(*shape) if shape[-2] > 1 else data(*shape) > -0.2
    given = q, k, v, seen if function is chosen else ~seen
    run = loaded(function, tmp_path / "f", *given, amp="bfloat16")
    before = dnn.count("masked")
    found = run(*given)
    assert dnn.count("masked") - before == 1
    low = -math.inf if function is chosen else -1e9
    near(found, meaning_of(np.where(seen, meaning_scores(q, k), low), v))


def test_packed_and_turned(dnn: Library, device: Device, tmp_path: Path) -> None:
    """Queries, keys and values are read where they lie, heads written side by side: no
    kernel runs at all."""
    (x,) = halves((B, S, 3 * H * D))
    run, before = loaded(packed, tmp_path / "f", x), dnn.count("attentions")
    q, k, v = x.reshape(B, S, 3, H, D).transpose(2, 0, 3, 1, 4)
    launches = device.launches
    near(run(x), meaning(q, k, v, scale=0.25).swapaxes(1, 2))
    assert dnn.count("attentions") - before == 1
    assert device.launches == launches


def test_sizes_that_are_not_known(dnn: Library, tmp_path: Path) -> None:
    """One program for all; a plan of cuDNN's is built for each shape, once."""
    specs = [SPEC([None, H, None, D], "bfloat16")] * 3
    run = loaded(
        plain, tmp_path / "f", *halves(QKV[0], *[QKV[1]] * 2), input_spec=specs
    )
    before = dnn.count("built")
    for batch, rows, keys in ((2, 5, 7), (1, 1, 9), (2, 5, 7), (1, 1, 9), (0, 3, 3)):
        given = halves((batch, H, rows, D), *[(batch, H, keys, D)] * 2)
        near(run(*given), meaning(*given, scale=0.25))
    assert dnn.count("built") - before == 2


def shown(q: Any, k: Any, v: Any) -> Any:
    shares = F.softmax(paddle.matmul(q, k, transpose_y=True), -1)
    return paddle.matmul(shares, v), shares


def scaled_mask(q: Any, k: Any, v: Any) -> Any:
    scores = (paddle.matmul(q, k, transpose_y=True) + q[:, :, :, :1]) * 0.5
    return paddle.matmul(F.softmax(scores, -1), v)


def columns(q: Any, k: Any, v: Any) -> Any:
    scores = paddle.matmul(q, k, transpose_y=True)
    return paddle.matmul(F.softmax(scores, -2), v)


def twice(q: Any, k: Any, v: Any) -> Any:
    shares = F.softmax(F.softmax(paddle.matmul(q, k, transpose_y=True), -1), -1)
    return paddle.matmul(shares, v)


@pytest.mark.parametrize("function", [shown, scaled_mask, columns, twice])
def test_what_is_none(function: Any, dnn: Library, tmp_path: Path) -> None:
    """Where others read the shares, or it is something else, kernels of ours run."""
    given = halves((B, H, S, D), *[(B, H, S, D)] * 2)
    run, before = loaded(function, tmp_path / "f", *given), dnn.count("attentions")
    run(*given)
    assert dnn.count("attentions") == before


@pytest.mark.parametrize("width", [12, 136])
def test_widths_that_the_library_has_not(
    width: int, dnn: Library, tmp_path: Path
) -> None:
    given = halves(*[(B, S, width)] * 3)
    run, before = loaded(plain, tmp_path / "f", *given), dnn.count("attentions")
    near(run(*given), meaning(*given, scale=0.25))
    assert dnn.count("attentions") == before


def test_an_old_library_is_not_asked(dnn: Library, tmp_path: Path) -> None:
    given = halves(*QKV)
    dnn.refuse(3)
    try:
        run, before = loaded(plain, tmp_path / "f", *given), dnn.count("attentions")
        near(run(*given), meaning(*given, scale=0.25))
    finally:
        dnn.refuse(0)
    assert dnn.count("attentions") == before


def test_no_engine(dnn: Library, tmp_path: Path) -> None:
    """An error that says so; and nothing is left behind."""
    given = halves((1, 2, 3, 16), (1, 2, 4, 16), (1, 2, 4, 8))
    run, before = loaded(plain, tmp_path / "f", *given), dnn.count("described")
    dnn.refuse(1)
    try:
        with pytest.raises(RuntimeError, match="no engine for this attention"):
            run(*given)
    finally:
        dnn.refuse(0)
    assert dnn.count("described") == before
    near(run(*given), meaning(*given, scale=0.25))


def test_tensors_of_the_device(dnn: Library, tmp_path: Path) -> None:
    given = [data(*shape) / 2 for shape in QKV]
    run = loaded(plain, tmp_path / "f", *given, amp="float16")
    near(back(run(*map(on_device, given))), meaning(*given, scale=0.25))
