"""Which functions take complex numbers in Paddle, Pirol, PyTorch and JAX, as a table.

    python -m pirol bench complex --python /path/to/python/with/torch/and/jax

Every cell is a call that was made on complex64: "yes" where it gave NumPy's numbers,
"wrong" where it gave others, "-" where it raised. In Pirol's column `pc` is a function
of pirol.complex, "library" is a step of Paddle's within the plan; the CUDA column says
whether all of it is kernels.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

LIBRARIES = {"numpy": "np", "paddle": "paddle", "torch": "torch", "jax": "jnp"}
HEADS = {
    "numpy": "import numpy as np",
    "paddle": "import paddle\nimport paddle.nn.functional as F\n"
    "import pirol.complex as pc",
    "torch": "import torch\nimport torch.nn.functional as F",
    "jax": "import jax\nimport jax.numpy as jnp",
}
# Functions of x, [3, 4], whose names and arguments are the same everywhere.
UNARY = (
    "abs angle real imag exp expm1 log log2 log10 log1p sqrt sin cos tan sinh cosh"
    " tanh arcsin arccos arctan arcsinh arccosh arctanh square reciprocal sum mean prod"
    " isfinite isnan trace tril triu"
)
BINARY = "add subtract multiply divide not_equal kron"
# Others: name; NumPy's call; Paddle's; PyTorch's; JAX's ("=": NumPy's, by its name).
# Where Paddle's begins with pc it is Pirol's; that of Paddle's own is paddle's or F's.
CALLS = """
negative | -x | = | = | =
conj | np.conj(x) | paddle.conj(x) | torch.conj(x).resolve_conj() | =
equal | np.equal(x, y) | paddle.equal(x, y) | torch.eq(x, y) | =
outer | np.outer(x[0], y[1]) | paddle.outer(x[0], y[1]) | torch.outer(x[0], y[1]) | =
pow | x ** y | = | = | =
rsqrt | x ** -0.5 | pc.rsqrt(x) | torch.rsqrt(x) | jax.lax.rsqrt(x)
sigmoid | 1 / (1 + np.exp(-x)) | F.sigmoid(x) | torch.sigmoid(x) | jax.nn.sigmoid(x)
silu | x / (1 + np.exp(-x)) | F.silu(x) | F.silu(x) | jax.nn.silu(x)
var | np.var(x, ddof=1) | pc.var(x) | torch.var(x) | jnp.var(x, ddof=1)
std | np.std(x, ddof=1) | pc.std(x) | torch.std(x) | jnp.std(x, ddof=1)
norm | np.linalg.norm(x) | paddle.linalg.norm(x) | torch.linalg.norm(x) | =
norm_by_3 | np.linalg.norm(x, 3, 1) | paddle.linalg.norm(x, 3, 1) | torch.linalg.norm(x, 3, 1) | =
largest_norm | np.linalg.norm(x, np.inf, 1) | paddle.linalg.norm(x, float("inf"), 1) | torch.linalg.norm(x, float("inf"), 1) | =
matrix_norm | np.linalg.norm(x, 1) | paddle.linalg.matrix_norm(x, 1) | torch.linalg.matrix_norm(x, 1) | =
cov | np.cov(x) | pc.cov(x) | torch.cov(x) | =
logsumexp | np.log(np.exp(x).sum(1)) | pc.logsumexp(x, 1) | torch.logsumexp(x, 1) | jax.nn.logsumexp(x, 1)
softmax | np.exp(x) / np.exp(x).sum(1, keepdims=True) | pc.softmax(x, 1) | torch.softmax(x, 1) | jax.nn.softmax(x, 1)
trapezoid | np.trapezoid(x) | pc.trapezoid(x) | torch.trapezoid(x) | =
diff | np.diff(x) | paddle.diff(x) | torch.diff(x) | =
nan_to_num | np.nan_to_num(x) | pc.nan_to_num(x) | torch.nan_to_num(x) | =
cumsum | np.cumsum(x, 1) | paddle.cumsum(x, 1) | torch.cumsum(x, 1) | =
cumprod | np.cumprod(x, 1) | paddle.cumprod(x, 1) | torch.cumprod(x, 1) | =
where | np.where(x == y, x, y) | paddle.where(x == y, x, y) | torch.where(x == y, x, y) | =
matmul | x @ y.T | paddle.matmul(x, y.t()) | = | =
bmm | c @ d | pc.bmm(c, d) | torch.bmm(c, d) | =
mv | x @ y[0] | pc.mv(x, y[0]) | torch.mv(x, y[0]) | =
addmm | x @ y.T + x[:, :3] | pc.addmm(x[:, :3], x, y.t()) | torch.addmm(x[:, :3], x, y.T) | =
baddbmm | c @ d + c @ d | pc.baddbmm(c @ d, c, d) | torch.baddbmm(c @ d, c, d) | c @ d + jnp.matmul(c, d)
multi_dot | np.linalg.multi_dot([s, x, y.T]) | pc.multi_dot([s, x, y.t()]) | torch.linalg.multi_dot([s, x, y.T]) | =
inner | np.inner(x, y) | pc.inner(x, y) | torch.inner(x, y) | =
tensordot | np.tensordot(x, y, ((0, 1), (0, 1))) | pc.tensordot(x, y, [[0, 1], [0, 1]]) | torch.tensordot(x, y, ([0, 1], [0, 1])) | =
cross | np.cross(x.T, y.T).T | paddle.cross(x, y) | torch.linalg.cross(x, y, dim=0) | =
einsum | np.einsum("ij,kj->ik", x, y) | paddle.einsum("ij,kj->ik", x, y) | torch.einsum("ij,kj->ik", x, y) | =
conv1d | conv(c[..., None], w[..., None])[..., 0] | pc.conv1d(c, w) | F.conv1d(c, w) | jax.lax.conv(c, w, (1,), "VALID")
conv2d | conv(e, v) | pc.conv2d(e, v) | F.conv2d(e, v) | jax.lax.conv(e, v, (1, 1), "VALID")
conv1d_transpose | conv(np.pad(c, ((0, 0), (0, 0), (1, 1)))[..., None], w[:, :, ::-1, None])[..., 0] | pc.conv1d_transpose(c, w.transpose([1, 0, 2])) | F.conv_transpose1d(c, w.transpose(0, 1)) | jax.lax.conv(jnp.pad(c, ((0, 0), (0, 0), (1, 1))), w[:, :, ::-1], (1,), "VALID")
lerp | x + 0.3 * (y - x) | pc.lerp(x, y, 0.3) | torch.lerp(x, y, 0.3) | =
concat | np.concatenate([x, y]) | paddle.concat([x, y]) | torch.cat([x, y]) | =
stack | np.stack([x, y]) | paddle.stack([x, y]) | torch.stack([x, y]) | =
split | np.split(x, 2, 1)[1] | pc.split(x, 2, 1)[1] | torch.split(x, 2, 1)[1] | =
transpose | x.T | x.t() | = | =
reshape | x.reshape(4, 3) | x.reshape([4, 3]) | = | =
flip | np.flip(x, 0) | paddle.flip(x, [0]) | torch.flip(x, [0]) | =
rot90 | np.rot90(x) | pc.rot90(x) | torch.rot90(x) | =
roll | np.roll(x, 1, 0) | paddle.roll(x, 1, 0) | torch.roll(x, 1, 0) | =
tile | np.tile(x, (2, 1)) | paddle.tile(x, [2, 1]) | torch.tile(x, (2, 1)) | =
pad | np.pad(x, ((0, 0), (1, 2))) | F.pad(x, [0, 0, 1, 2]) | F.pad(x, [1, 2]) | =
diag | np.diag(x[0]) | paddle.diag(x[0]) | torch.diag(x[0]) | =
gather | np.take(x, at, 0) | paddle.gather(x, at) | torch.index_select(x, 0, at) | =
take_along_axis | np.take_along_axis(x[:, :1], at[:, None], 0) | pc.take_along_axis(x[:, :1], at.unsqueeze(1), 0) | torch.take_along_dim(x[:, :1], at[:, None], 0) | =
scatter_add | added(x, at, y[:2]) | pc.scatter_nd_add(x, at.unsqueeze(1), y[:2]) | torch.index_add(x, 0, at, y[:2]) | x.at[at].add(y[:2])
scatter | overwritten(x, at, y[:2]) | pc.scatter(x, at, y[:2]) | torch.index_copy(x, 0, at, y[:2]) | x.at[at].set(y[:2])
index_put | overwritten(x, at, y[:2]) | paddle.index_put(x, (at,), y[:2]) | torch.index_put(x, (at,), y[:2]) | x.at[at].set(y[:2])
repeat_interleave | np.repeat(x, 2, 0) | pc.repeat_interleave(x, 2, 0) | torch.repeat_interleave(x, 2, 0) | =
masked_fill | np.where(x == y, y, x) | paddle.masked_fill(x, x == y, y[0, 0]) | torch.masked_fill(x, x == y, y[0, 0]) | =
as_real | np.stack([x.real, x.imag], -1) | paddle.as_real(x) | torch.view_as_real(x) | =
as_complex | x | paddle.as_complex(paddle.as_real(x)) | torch.view_as_complex(torch.view_as_real(x)) | =
polar | x | paddle.polar(x.abs(), x.angle()) | torch.polar(x.abs(), x.angle()) | jax.lax.complex(jnp.abs(x) * jnp.cos(jnp.angle(x)), jnp.abs(x) * jnp.sin(jnp.angle(x)))
fft | np.fft.fft(x) | paddle.fft.fft(x) | torch.fft.fft(x) | =
ifft | np.fft.ifft(x) | paddle.fft.ifft(x) | torch.fft.ifft(x) | =
fft2 | np.fft.fft2(x) | paddle.fft.fft2(x) | torch.fft.fft2(x) | =
rfft | np.fft.rfft(x.real) | paddle.fft.rfft(x.real()) | torch.fft.rfft(x.real) | =
irfft | np.fft.irfft(x) | paddle.fft.irfft(x) | torch.fft.irfft(x) | =
fftshift | np.fft.fftshift(x) | paddle.fft.fftshift(x) | torch.fft.fftshift(x) | =
inverse | np.linalg.inv(s) | paddle.linalg.inv(s) | torch.linalg.inv(s) | =
inverse_of_5 | np.linalg.inv(g) | paddle.linalg.inv(g) | torch.linalg.inv(g) | =
det | np.linalg.det(s) | paddle.linalg.det(s) | torch.linalg.det(s) | =
solve | np.linalg.solve(s, x) | pc.solve(s, x) | torch.linalg.solve(s, x) | =
matrix_power | np.linalg.matrix_power(s, 3) | paddle.linalg.matrix_power(s, 3) | torch.linalg.matrix_power(s, 3) | =
"""  # noqa: E501
SHORT = {f"arc{n}": f"a{n}" for n in ("sin", "cos", "tan", "sinh", "cosh", "tanh")}
NAMES = "x, y, c, d, e, v, w, s, g, at"


def rows() -> dict[str, dict[str, str]]:
    """Function -> library -> its call."""
    found: dict[str, dict[str, str]] = {}
    for names, given in ((UNARY, "x"), (BINARY, "x, y")):
        for name in names.split():
            short = SHORT.get(name, name)
            found[short] = {
                lib: f"{short_name}.{short if lib == 'paddle' else name}({given})"
                for lib, short_name in LIBRARIES.items()
            }
    for line in CALLS.strip().splitlines():
        name, first, *others = (part.strip() for part in line.split(" | "))
        same = {"paddle": first, "torch": first, "jax": first.replace("np.", "jnp.")}
        calls = {k: same[k] if v == "=" else v for k, v in zip(same, others)}
        found[name] = {"numpy": first, **calls}
    return found


def arrays() -> list[Any]:
    """What the calls are given, in the order of NAMES."""
    rng = np.random.default_rng(0)
    shapes = (
        (3, 4),
        (3, 4),
        (2, 3, 5),
        (2, 5, 4),
        (1, 2, 5, 6),
        (4, 2, 3, 2),
        (4, 3, 2),
    )
    found = []
    for shape in (*shapes, (3, 3), (5, 5)):
        parts = rng.normal(size=(2, *shape))
        found.append((parts[0] + 1j * parts[1]).astype("complex64"))
    return [*found, np.array([2, 0])]


def conv(x: Any, w: Any) -> Any:
    """A convolution of planes without padding."""
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, w)


def added(x: Any, at: Any, y: Any) -> Any:
    """x with the rows of y added at places."""
    found = x.copy()
    np.add.at(found, at, y)
    return found


def overwritten(x: Any, at: Any, y: Any) -> Any:
    """x with the rows of y at places."""
    found = x.copy()
    found[at] = y
    return found


GIVEN = {"conv": conv, "added": added, "overwritten": overwritten}


def functions(library: str, calls: dict[str, str], folder: Path) -> dict[str, Any]:
    """The calls as functions of a file, since compilers read sources."""
    bodies = [f"def f_{k}({NAMES}):\n    return {c}" for k, c in calls.items()]
    path = folder / f"calls_{library}.py"
    path.write_text("\n\n".join([HEADS[library], *bodies]) + "\n")
    found = runpy.run_path(str(path), GIVEN)
    return {name: found[f"f_{name}"] for name in calls}


def judged(run: Callable[[], Any], wanted: Any) -> str:
    """The cell of one call."""
    try:
        got = np.asarray(run())
    except Exception:
        return "-"
    same = got.shape == wanted.shape and np.allclose(got, wanted, 1e-4, 1e-4)
    return "yes" if same else "wrong"


def column(library: str, calls: dict[str, str]) -> dict[str, str]:
    """The cells of one library; numpy's calls are the reference."""
    wanted = references()
    with tempfile.TemporaryDirectory() as folder:
        own = functions(library, calls, Path(folder))
        tensors = [MAKERS[library]()(a) for a in arrays()]
        return {
            n: judged(functools.partial(run, *tensors), wanted[n])
            for n, run in own.items()
        }


def references() -> dict[str, Any]:
    """What NumPy's calls give."""
    plain = {name: row["numpy"] for name, row in rows().items()}
    with tempfile.TemporaryDirectory() as folder, np.errstate(all="ignore"):
        own = functions("numpy", plain, Path(folder))
        return {n: np.asarray(run(*arrays())) for n, run in own.items()}


def _paddle() -> Any:
    import paddle

    return paddle.to_tensor


def _torch() -> Any:
    import torch  # type: ignore[import-not-found,unused-ignore]

    return torch.from_numpy


def _jax() -> Any:
    import jax.numpy  # type: ignore[import-not-found,unused-ignore]

    return jax.numpy.asarray


MAKERS: dict[str, Callable[[], Any]] = {"paddle": _paddle, "torch": _torch, "jax": _jax}


def paddles_own(call: str) -> str:
    """Paddle's call in the place of one of pirol.complex."""
    import paddle

    homes = {
        "paddle": paddle,
        "F": paddle.nn.functional,
        "paddle.linalg": paddle.linalg,
    }

    def own(match: re.Match[str]) -> str:
        name = match[1]
        return next(f"{k}.{name}" for k, home in homes.items() if hasattr(home, name))

    return re.sub(r"\bpc\.(\w+)", own, call)


def pirols(calls: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Pirol's cells, and whether all is kernels for CUDA too."""
    import pirol

    wanted = references()
    with tempfile.TemporaryDirectory() as folder:
        own = functions("paddle", calls, Path(folder))
        tensors = [_paddle()(a) for a in arrays()]
        found, cuda = {}, {}
        for n, run in own.items():
            fast = pirol.to_static(run)
            cell = judged(functools.partial(fast, *tensors), wanted[n])
            report = pirol.explain(fast)
            if cell == "yes":
                cell = _how(report)
            ours = cell in ("yes", "library")
            cuda[n] = "yes" if ours and _on_cuda(report) else "-"
            found[n] = cell.replace("yes", "yes, pc" if "pc." in calls[n] else "yes")
        return found, cuda


def _how(report: Any) -> str:
    if report.fallbacks:
        return "Paddle"
    return "library" if report.library else "yes"


def _on_cuda(report: Any) -> bool:
    from pirol.compiler.capture.exporting import NATIVE
    from pirol.compiler.pipeline import lower
    from pirol.compiler.runtime import generate
    from pirol.kernels.render import CUDA

    lowered = lower(report.stages["capture"], {}, target="cuda")
    generate(lowered.plan, CUDA)
    return all(op.name in NATIVE for op in lowered.stages["fuse"].ops)


def elsewhere(python: str, library: str) -> dict[str, str]:
    """A column by another interpreter."""
    command = [python, __file__, "--column", library]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(run.stdout.splitlines()[-1])
    return found


def table(python: str | None) -> str:
    """The table; without an interpreter that has torch and jax, without them."""
    calls = {name: row["paddle"] for name, row in rows().items()}
    columns = {
        "Paddle": column("paddle", {n: paddles_own(c) for n, c in calls.items()})
    }
    columns["Pirol"], columns["Pirol, CUDA"] = pirols(calls)
    if python is not None:
        columns["PyTorch"] = elsewhere(python, "torch")
        columns["JAX"] = elsewhere(python, "jax")
    lines = [["function", *columns], ["---"] * (len(columns) + 1)]
    lines += [[n, *(c[n] for c in columns.values())] for n in calls]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


BEGIN, END = "<!-- table -->\n", "<!-- end -->\n"


def _around(page: str) -> tuple[str, str, str]:
    """A page's text before its table, the table, and the text behind."""
    before, mark, rest = page.partition(BEGIN)
    inside, end, after = rest.partition(END)
    return before + mark, inside, end + after


def cells(page: str) -> dict[str, dict[str, str]]:
    """Function -> column -> cell, of a page's table."""
    lines = [line.strip("| ") for line in _around(page)[1].splitlines()]
    head, _, *body = ([c.strip() for c in line.split("|")] for line in lines)
    return {row[0]: dict(zip(head[1:], row[1:])) for row in body}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or (--column) one library's cells as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m pirol bench complex",
        description=(__doc__ or "").splitlines()[0],
    )
    parser.add_argument("--python", help="interpreter that has torch and jax")
    parser.add_argument("--write", type=Path, help="put the table into this page")
    parser.add_argument("--column", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.column:
        calls = {n: row[chosen.column] for n, row in rows().items()}
        print(json.dumps(column(chosen.column, calls)))
        return 0
    found = table(chosen.python)
    if chosen.write:
        before, _, after = _around(chosen.write.read_text())
        chosen.write.write_text(f"{before}{found}\n{after}")
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
