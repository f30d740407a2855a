"""Gradients of matrices' inverses, factors and solutions, as products of what the
forward op gave: these can be differentiated again, as Paddle's own ops cannot.

' is transposed, ct the cotangent of what the op gave. Of complex numbers a rule stands
where the op is analytic; factors are not.
"""

from __future__ import annotations

from typing import Any

from pirol.compiler import dims
from pirol.compiler.ir import FLOATS, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.bounds import cut
from pirol.prim.decomp.gradients import collapsed, gradient
from pirol.prim.decomp.linalg import LIMIT
from pirol.prim.decomp.registry import need
from pirol.prim.matrices import product, turned


@gradient("inverse", of="x -> out")
def inverse(b: Builder, out: Value, out_grad: Value) -> Any:
    """-out' ct out'"""
    back = turned(b, out)
    return b.neg(_chain(b, back, out_grad, back))


@gradient("det", of="x -> out")
def det(b: Builder, x: Value, out: Value, out_grad: Value) -> Any:
    """ct det(x) x^-1'"""
    need(_large(x), "few rows, by elimination")
    scale = _matrices(b, b.mul(out_grad, out), x)
    return b.mul(turned(b, b.inverse(x)), scale)


@gradient("slogdet", of="x -> out")
def slogdet(b: Builder, x: Value, out: Value, out_grad: Value) -> Any:
    """ct of the logarithm times x^-1'; signs have no gradient."""
    _real(x)
    lead = x.shape[:-2]
    row = b.reshape(cut(b, out_grad, 0, 1, 1), shape=lead)
    scale = _matrices(b, row, x)
    return b.mul(turned(b, b.inverse(x)), scale)


@gradient("solve", results="x_grad y_grad", of="x y -> out")
def solve(b: Builder, x: Value, y: Value, out: Value, out_grad: Value) -> Any:
    """Of y x^-1' ct, of x this times -out'."""
    need(_large(x), "few rows, by elimination")
    column = y.type.rank == 1
    if column:
        out, out_grad = (b.reshape(v, shape=(*v.shape, 1)) for v in (out, out_grad))
    x_all = b.broadcast_to(x, (*out.shape[:-2], *x.shape[-2:]))
    of_y = product(b, turned(b, b.inverse(x_all)), out_grad)
    of_x = b.neg(product(b, of_y, turned(b, out)))
    if column:
        of_y = b.reshape(of_y, shape=of_y.shape[:-1])
    return collapsed(b, of_x, x), collapsed(b, of_y, y)


@gradient("triangular_solve", results="x_grad y_grad", of="x y -> out")
def triangular_solve(
    b: Builder,
    x: Value,
    y: Value,
    out: Value,
    out_grad: Value,
    *,
    upper: bool,
    transpose: bool,
    unitriangular: bool,
) -> Any:
    """As of solve, by the part of x that is read, which may be transposed."""
    _real(x)
    read = _side(b, x, upper, strict=unitriangular)
    if unitriangular:
        read = b.add(read, _diagonal(b, x))
    back = b.inverse(b.broadcast_to(read, (*out.shape[:-2], *x.shape[-2:])))
    of_y = product(b, back if transpose else turned(b, back), out_grad)
    ends = (out, of_y) if transpose else (of_y, out)
    of_x = b.neg(product(b, ends[0], turned(b, ends[1])))
    of_x = _side(b, of_x, upper, strict=unitriangular)
    return collapsed(b, of_x, x), collapsed(b, of_y, y)


@gradient("cholesky", of="x -> out")
def cholesky(b: Builder, out: Value, out_grad: Value, *, upper: bool) -> Any:
    """l^-1' (s + s') l^-1 / 2; s: the lower part of l' ct, of its diagonal half."""
    _real(out)
    low, ct = (turned(b, v) if upper else v for v in (out, out_grad))
    low = _side(b, low, upper=False)
    inner = _side(b, product(b, turned(b, low), ct), upper=False)
    inner = b.mul(inner, b.sub(1.0, b.mul(_diagonal(b, low), 0.5)))
    back = b.inverse(low)
    found = _chain(b, turned(b, back), inner, back)
    return b.mul(b.add(found, turned(b, found)), 0.5)


@gradient("cholesky_solve", results="x_grad y_grad", of="x y -> out")
def cholesky_solve(
    b: Builder, x: Value, y: Value, out: Value, out_grad: Value, *, upper: bool
) -> Any:
    """Of x a^-1 ct, where a is y y'; of y the lower part of -(m + m') y, where m is
    this times out'."""
    _real(x)
    low = _side(b, turned(b, y) if upper else y, upper=False)
    low = b.broadcast_to(low, (*out.shape[:-2], *y.shape[-2:]))
    back = b.inverse(low)
    of_x = _chain(b, turned(b, back), back, out_grad)
    outer = product(b, of_x, turned(b, out))
    of_y = b.neg(product(b, b.add(outer, turned(b, outer)), low))
    of_y = _side(b, of_y, upper=False)
    return collapsed(b, of_x, x), collapsed(b, turned(b, of_y) if upper else of_y, y)


@gradient("lu", of="x -> out pivots infos")
def lu(b: Builder, x: Value, out: Value, out_grad: Value) -> Any:
    """x1^-1' u1' m u1^-1', where x1 and u1 are the square parts, and m is the lower
    part of l' ct, and above it ct u'; what u has beyond adds to the ct of l."""
    _real(x)
    rows, columns = x.shape[-2:]
    known = isinstance(rows, int) and isinstance(columns, int)
    need(known and rows <= columns, "lu of tall matrices")
    last, wide = x.type.rank - 1, dims.equal(rows, columns) is not True

    def first(v: Value) -> Value:
        return cut(b, v, last, 0, rows) if wide else v

    square, packed, ct = first(x), first(out), first(out_grad)
    low = b.add(_side(b, packed, upper=False, strict=True), _diagonal(b, packed))
    high = _side(b, packed, upper=True)
    turn = product(b, turned(b, b.inverse(square)), turned(b, high))
    of_low = product(b, turned(b, low), _side(b, ct, upper=False, strict=True))
    beyond = []
    if wide:
        rest, more = (cut(b, v, last, rows, columns - rows) for v in (out, out_grad))
        of_low = b.sub(of_low, product(b, more, turned(b, rest)))
        beyond.append(product(b, turn, more))
    of_high = product(b, _side(b, ct, upper=True), turned(b, high))
    inner = b.add(
        _side(b, of_low, upper=False, strict=True), _side(b, of_high, upper=True)
    )
    found = _chain(b, turn, inner, turned(b, b.inverse(high)))
    return b.concat(found, *beyond, axis=last) if beyond else found


@gradient("lu_unpack", of="x y -> pmat l u")
def lu_unpack(b: Builder, x: Value, l_grad: Value | None, u_grad: Value | None) -> Any:
    """Below the diagonal the ct of l, the rest that of u."""
    rank = x.type.rank
    found = b.const(value=0.0, shape=x.shape, dtype=x.dtype)
    for ct, upper in ((l_grad, False), (u_grad, True)):
        if ct is not None:
            beyond = [dims.sub(n, m) for n, m in zip(x.shape, ct.shape)]
            whole = b.pad(
                ct, low=(0,) * rank, high=(*beyond,), interior=(0,) * rank, value=0.0
            )
            found = b.add(found, _side(b, whole, upper=upper, strict=not upper))
    return found


@gradient("eigh", of="x -> out_w out_v")
def eigh(
    b: Builder,
    out_w: Value,
    out_v: Value,
    out_w_grad: Value | None,
    out_v_grad: Value | None,
) -> Any:
    """v (diag(ct of w) + v' (ct of v) / (w_j - w_i)) v'"""
    _real(out_v)
    inner = b.const(value=0.0, shape=out_v.shape, dtype=out_v.dtype)
    if out_w_grad is not None:
        inner = b.mul(_diagonal(b, out_v), _columns(b, out_w_grad, out_v))
    if out_v_grad is not None:
        across = _columns(b, out_w, out_v)
        gaps = b.sub(across, turned(b, across))
        own = b.gt(_diagonal(b, out_v), 0.0)
        parts = product(b, turned(b, out_v), out_v_grad)
        parts = b.select(own, 0.0, b.div(parts, b.select(own, 1.0, gaps)))
        inner = b.add(inner, parts)
    return _chain(b, out_v, inner, turned(b, out_v))


@gradient("svd", of="x -> u s vh")
def svd(
    b: Builder,
    x: Value,
    u: Value,
    vh: Value,
    s: Value,
    u_grad: Value | None,
    vh_grad: Value | None,
    s_grad: Value | None,
    *,
    full_matrices: bool,
) -> Any:
    """u (diag(ct of s) + f(u' (ct of u)) s + s f(v' (ct of v))) v', where f(m) is
    (m - m') / (s_j^2 - s_i^2); and what of the cts is outside u and v, over s."""
    _real(x)
    need(not full_matrices, "svd of full matrices")
    core = product(b, turned(b, u), u)  # of the shape of all that is between u and v
    across = _columns(b, s, core)
    down = turned(b, across)
    own = b.gt(_diagonal(b, core), 0.0)
    gaps = b.select(own, 1.0, b.mul(b.sub(across, down), b.add(across, down)))

    def turning(m: Value) -> Value:
        found: Value = b.select(own, 0.0, b.div(b.sub(m, turned(b, m)), gaps))
        return found

    inner = b.const(value=0.0, shape=core.shape, dtype=core.dtype)
    if s_grad is not None:
        inner = b.mul(_diagonal(b, core), _columns(b, s_grad, core))
    rest = []
    if u_grad is not None:
        along = product(b, turned(b, u), u_grad)
        inner = b.add(inner, b.mul(turning(along), across))
        outside = b.sub(u_grad, product(b, u, along))
        rest.append(product(b, b.div(outside, _columns(b, s, outside)), vh))
    if vh_grad is not None:
        along = product(b, vh_grad, turned(b, vh))
        inner = b.add(inner, b.mul(down, turning(turned(b, along))))
        outside = b.sub(vh_grad, product(b, along, vh))
        scale = turned(b, _columns(b, s, turned(b, outside)))
        rest.append(product(b, u, b.div(outside, scale)))
    found = _chain(b, u, inner, vh)
    for part in rest:
        found = b.add(found, part)
    return found


@gradient("qr", of="x -> q r")
def qr(
    b: Builder,
    x: Value,
    q: Value,
    r: Value,
    q_grad: Value | None,
    r_grad: Value | None,
    *,
    mode: str,
) -> Any:
    """(ct of q + q s) r^-1', where s is the lower part of m = r (ct of r)' -
    (ct of q)' q, with that above the diagonal which makes it symmetric."""
    _real(x)
    tall = dims.equal(*r.shape[-2:]) is True
    need(mode == "reduced" and tall, "qr that is not reduced, or of wide matrices")
    inner = b.const(value=0.0, shape=r.shape, dtype=r.dtype)
    if r_grad is not None:
        inner = b.add(inner, product(b, r, turned(b, _side(b, r_grad, upper=True))))
    if q_grad is not None:
        inner = b.sub(inner, product(b, turned(b, q_grad), q))
    strict = _side(b, inner, upper=False, strict=True)
    both = b.add(_side(b, inner, upper=False), turned(b, strict))
    found = product(b, q, both)
    if q_grad is not None:
        found = b.add(found, q_grad)
    return product(b, found, turned(b, b.inverse(r)))


def _large(x: Value) -> bool:
    return not isinstance(x.shape[-1], int) or x.shape[-1] > LIMIT


def _real(x: Value) -> None:
    need(x.dtype in FLOATS, f"no such gradient of {x.dtype}")


def _chain(b: Builder, x: Value, y: Value, z: Value) -> Value:
    found: Value = product(b, product(b, x, y), z)
    return found


def _matrices(b: Builder, scale: Value, like: Value) -> Value:
    """A number for each matrix, in all places of it."""
    lead = tuple(range(like.type.rank - 2))
    found: Value = b.broadcast(scale, shape=like.shape, dims=lead)
    return found


def _columns(b: Builder, row: Value, like: Value) -> Value:
    """A row for each matrix, in all rows of it."""
    rank = like.type.rank
    found: Value = b.broadcast(row, shape=like.shape, dims=(*range(rank - 2), rank - 1))
    return found


def _places(b: Builder, x: Value) -> tuple[Value, Value]:
    """The numbers of each element's row and column."""
    row, column = (
        b.iota(axis=x.type.rank - k, shape=x.shape, dtype="int64") for k in (2, 1)
    )
    return row, column


def _diagonal(b: Builder, like: Value) -> Value:
    """Ones on the diagonal."""
    found: Value = b.cast(b.eq(*_places(b, like)), dtype=like.dtype)
    return found


def _side(b: Builder, x: Value, upper: bool, strict: bool = False) -> Value:
    """The part above or below the diagonal, and unless strict the diagonal; zeros."""
    row, column = _places(b, x)
    low, high = (row, column) if upper else (column, row)
    inside = (b.lt if strict else b.le)(low, high)
    found: Value = b.select(inside, x, 0.0)
    return found
