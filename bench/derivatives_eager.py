"""Losses with derivatives of a network's output in them, as eager Paddle and PyTorch
write them: equations that a network solves, and forces of molecules.

data = draw("burgers", small=True)   # NumPy: parameters, inputs
loss = LOSSES["burgers"](lib, parameters, inputs)

`lib` has the few functions that the two call differently. `derivatives_jax.py` has the
same losses for JAX. Numbers are such as float32 has: Paddle's programs hold those of
Python code in float32, whatever the tensors are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

HALF_TURN = 0.5234375  # a distance of 6 is half a turn: there atoms are out of reach
WAVES = 8  # radial functions of a distance


def network(lib: Any, parameters: Sequence[Any], x: Any) -> Any:
    """Layers with tanh between; parameters: weight, bias, weight, .."""
    for k in range(0, len(parameters) - 2, 2):
        x = lib.tanh(lib.matmul(x, parameters[k]) + parameters[k + 1])
    return lib.matmul(x, parameters[-2]) + parameters[-1]


def slope(lib: Any, y: Any, x: Any) -> Any:
    """The gradient of each row's y by that row of x."""
    return lib.grad(lib.sum(y), x)


# ---- equations ----


def burgers(lib: Any, parameters: Sequence[Any], inputs: Sequence[Any]) -> Any:
    """u_t + u u_x = 0.0078125 u_xx, and given values at some points."""
    points, ends, values = inputs
    u = network(lib, parameters, points)
    first = slope(lib, u, points)
    second = slope(lib, first[:, 0], points)
    rest = first[:, 1] + u[:, 0] * first[:, 0] - 0.0078125 * second[:, 0]
    off = network(lib, parameters, ends) - values
    return lib.mean(rest * rest) + lib.mean(off * off)


def allen_cahn(lib: Any, parameters: Sequence[Any], inputs: Sequence[Any]) -> Any:
    """u_t = 0.0001220703125 u_xx - 5 u (u u - 1), and given values."""
    points, ends, values = inputs
    u = network(lib, parameters, points)
    first = slope(lib, u, points)
    second = slope(lib, first[:, 0], points)
    flat = u[:, 0]
    rest = (
        first[:, 1] - 0.0001220703125 * second[:, 0] + 5.0 * flat * (flat * flat - 1.0)
    )
    off = network(lib, parameters, ends) - values
    return lib.mean(rest * rest) + lib.mean(off * off)


def euler_beam(lib: Any, parameters: Sequence[Any], inputs: Sequence[Any]) -> Any:
    """u_xxxx = -1; clamped at the first end, free at the other."""
    points, left, right = inputs
    fourth = slopes(lib, network(lib, parameters, points), points, 4)[-1] + 1.0
    at = network(lib, parameters, left)
    turn = slope(lib, at, left)
    bend, shear = slopes(lib, network(lib, parameters, right), right, 3)[1:]
    ends = lib.sum(at * at) + lib.sum(turn * turn)
    return lib.mean(fourth * fourth) + ends + lib.sum(bend * bend + shear * shear)


def slopes(lib: Any, y: Any, x: Any, order: int) -> list[Any]:
    """The derivatives up to an order, of functions of one number."""
    found = []
    for _ in range(order):
        y = slope(lib, y, x)
        found.append(y)
    return found


def kuramoto_sivashinsky(
    lib: Any, parameters: Sequence[Any], inputs: Sequence[Any]
) -> Any:
    """u_t + u u_x + u_xx + u_xxxx = 0, and given values."""
    points, ends, values = inputs
    u = network(lib, parameters, points)
    first = slope(lib, u, points)
    second = slope(lib, first[:, 0], points)
    third = slope(lib, second[:, 0], points)
    fourth = slope(lib, third[:, 0], points)
    rest = first[:, 1] + u[:, 0] * first[:, 0] + second[:, 0] + fourth[:, 0]
    off = network(lib, parameters, ends) - values
    return lib.mean(rest * rest) + lib.mean(off * off)


def navier_stokes(lib: Any, parameters: Sequence[Any], inputs: Sequence[Any]) -> Any:
    """Two dimensions and time: momentum in both, and no divergence."""
    points, ends, values = inputs
    found = network(lib, parameters, points)
    slopes = [slope(lib, found[:, k], points) for k in range(3)]
    spread = slopes[0][:, 0] + slopes[1][:, 1]
    total = lib.mean(spread * spread)
    for k in range(2):
        of = slopes[k]
        xx = slope(lib, of[:, 0], points)[:, 0]
        yy = slope(lib, of[:, 1], points)[:, 1]
        flow = of[:, 2] + found[:, 0] * of[:, 0] + found[:, 1] * of[:, 1]
        rest = flow + slopes[2][:, k] - 0.0078125 * (xx + yy)
        total = total + lib.mean(rest * rest)
    off = network(lib, parameters, ends) - values
    return total + lib.mean(off * off)


def poisson(lib: Any, parameters: Sequence[Any], inputs: Sequence[Any]) -> Any:
    """u_xx + u_yy + u_zz = f in three dimensions, and given values."""
    points, source, ends, values = inputs
    first = slope(lib, network(lib, parameters, points), points)
    rest = -source[:, 0]
    for k in range(3):
        rest = rest + slope(lib, first[:, k], points)[:, k]
    off = network(lib, parameters, ends) - values
    return lib.mean(rest * rest) + lib.mean(off * off)


# ---- molecules: an energy, its forces, and how far both are from given ones ----


def matched(lib: Any, energy: Any, places: Any, inputs: Sequence[Any]) -> Any:
    """The mean squares of what is missing to the energy and the forces given."""
    forces = -lib.grad(energy, places)
    off, apart = energy - inputs[0], forces - inputs[1]
    return off * off + lib.mean(apart * apart)


def near(lib: Any, places: Any, others: Any) -> tuple[Any, Any, Any]:
    """To each neighbour: the way, its length, and a weight that ends at 6."""
    way = lib.rows(places, others) - places.unsqueeze(1)
    length = lib.sqrt((way * way).sum(-1, keepdim=True))
    weight = 0.5 * lib.cos(length * HALF_TURN) + 0.5
    return way, length, weight


def waves(lib: Any, length: Any) -> Any:
    """WAVES Gaussians of a distance, in a last dim of their own."""
    steps = [lib.exp(-((length - 0.75 * k) ** 2)) for k in range(WAVES)]
    return lib.concat(steps)


def deepmd(lib: Any, parameters: Sequence[Any], inputs: Sequence[Any]) -> Any:
    """A descriptor that no rotation changes, of embedded distances; a network of it."""
    places, others, *given = inputs
    embed, fit = parameters[:6], parameters[6:]
    way, length, weight = near(lib, places, others)
    inverse = weight / length
    around = lib.concat([inverse, inverse * way / length])
    seen = network(lib, embed, inverse)
    whole = lib.matmul(seen.transpose(*lib.swap), around) / others.shape[1]
    part = whole[:, :4]
    square = lib.matmul(whole, part.transpose(*lib.swap))
    flat = square.reshape([places.shape[0], -1])
    return matched(lib, lib.sum(network(lib, fit, flat)), places, given)


def schnet(lib: Any, parameters: Sequence[Any], inputs: Sequence[Any]) -> Any:
    """Convolutions over neighbours, with filters of their distances."""
    places, others, kinds, *given = inputs
    _, length, weight = near(lib, places, others)
    radial = waves(lib, length)
    atoms = lib.rows(parameters[0], kinds)
    for k in (1, 8):
        inner, before, bias, after, least, first, second = parameters[k : k + 7]
        filters = lib.matmul(soft(lib, lib.matmul(radial, first)), second) * weight
        sent = lib.rows(lib.matmul(atoms, inner), others) * filters
        found = soft(lib, lib.matmul(sent.sum(1), before) + bias)
        atoms = atoms + lib.matmul(found, after) + least
    return matched(lib, lib.sum(network(lib, parameters[15:], atoms)), places, given)


def soft(lib: Any, x: Any) -> Any:
    """softplus, 0 at 0."""
    return lib.softplus(x) - 0.6931471824645996


def spherenet(lib: Any, parameters: Sequence[Any], inputs: Sequence[Any]) -> Any:
    """Messages along edges, of those that come in: distances, angles and turns."""
    places, others, kinds, *given = inputs
    start, radial, first, second, change, fit = (
        *(parameters[0], parameters[1], parameters[2], parameters[3], parameters[4]),
        parameters[5:],
    )
    way, length, weight = near(lib, places, others)
    far = waves(lib, length)
    atoms = lib.rows(start, kinds)
    sent = lib.matmul(far, radial) * weight * lib.rows(atoms, others)
    on, reach = lib.rows(way, others), lib.rows(length, others)  # from each neighbour
    along = way.unsqueeze(2)
    cosine = (on * along).sum(-1, keepdim=True) / (reach * length.unsqueeze(2))
    turn = (cross(lib, along, on) * on[:, :, :1]).sum(-1, keepdim=True)
    turn = turn / (reach * length.unsqueeze(2) * reach[:, :, :1])
    shape = lib.concat([cosine, cosine * cosine, turn, turn * cosine])
    for weights in (first, second):
        filters = lib.matmul(shape, weights) * weight.unsqueeze(2)
        heard = (lib.rows(sent, others) * filters).sum(2)
        sent = sent + lib.silu(lib.matmul(heard, change))
    found = network(lib, fit, (sent * weight).sum(1))
    return matched(lib, lib.sum(found), places, given)


def cross(lib: Any, a: Any, b: Any) -> Any:
    """The cross product over the last dim."""
    x, y, z = (a[..., k : k + 1] for k in range(3))
    u, v, w = (b[..., k : k + 1] for k in range(3))
    return lib.concat([y * w - z * v, z * u - x * w, x * v - y * u])


LOSSES: dict[str, Callable[..., Any]] = {
    "burgers": burgers,
    "allen_cahn": allen_cahn,
    "poisson": poisson,
    "navier_stokes": navier_stokes,
    "euler_beam": euler_beam,
    "kuramoto_sivashinsky": kuramoto_sivashinsky,
    "deepmd": deepmd,
    "schnet": schnet,
    "spherenet": spherenet,
}
EQUATIONS = tuple(LOSSES)[:6]


# ---- what they are of ----


@dataclass(frozen=True)
class Drawn:
    """Arrays: parameters, and inputs; `moving` are the inputs that derivatives are
    taken by."""

    parameters: list[Any]
    inputs: list[Any]
    moving: tuple[int, ...] = (0,)


def draw(name: str, small: bool, dtype: str = "float32") -> Drawn:
    """The same for every framework, of a fixed seed."""
    rng = np.random.default_rng(0)
    drawn = _molecule(rng, name, small) if name not in EQUATIONS else None
    drawn = drawn or _equation(rng, name, small)

    def typed(a: Any) -> Any:
        return a if a.dtype == np.int64 else np.asarray(a, dtype)

    inputs = [typed(np.asarray(a)) for a in drawn.inputs]
    return Drawn([typed(a) for a in drawn.parameters], inputs, drawn.moving)


def _layers(rng: Any, *widths: int) -> list[Any]:
    found = []
    for a, b in zip(widths, widths[1:]):
        found += [rng.normal(size=(a, b)) / np.sqrt(a), 0.1 * rng.normal(size=b)]
    return found


def _equation(rng: Any, name: str, small: bool) -> Drawn:
    """Points, and values at the ends, for a network of tanh."""
    count, width = (12, 8) if small else (2000, 50)
    if name == "euler_beam":
        inner = [1, *[8 if small else 20] * 3, 1]
        left, right = np.zeros((1, 1)), np.ones((1, 1))
        points = rng.uniform(size=(12 if small else 1000, 1))
        return Drawn(_layers(rng, *inner), [points, left, right], (0, 1, 2))
    if name == "kuramoto_sivashinsky":
        count = 12 if small else 1000
    dims = {"poisson": 3, "navier_stokes": 3}.get(name, 2)
    outs = 3 if name == "navier_stokes" else 1
    points, ends = (rng.uniform(-1, 1, (n, dims)) for n in (count, count // 4))
    inputs = [points, ends, rng.normal(size=(count // 4, outs))]
    if name == "poisson":
        inputs.insert(1, rng.normal(size=(count, 1)))
    return Drawn(_layers(rng, dims, *[width] * 4, outs), inputs)


def _molecule(rng: Any, name: str, small: bool) -> Drawn:
    """Atoms on a grid that was shaken, each with its nearest neighbours."""
    side, count, width = (2, 4, 4) if small else (4, 16, 32)
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3), -1).reshape(-1, 3)
    places = 1.5 * grid + 0.2 * rng.normal(size=grid.shape)
    away = np.linalg.norm(places[:, None] - places, axis=-1)
    others = np.argsort(away, axis=1)[:, 1 : count + 1].astype(np.int64)
    kinds = rng.integers(0, 4, len(places))
    given = [rng.normal(size=()), rng.normal(size=places.shape)]

    def weight(a: int, b: int) -> Any:
        return rng.normal(size=(a, b)) / np.sqrt(a)

    end = _layers(rng, width, width, 1)
    if name == "deepmd":
        embed = _layers(rng, 1, width, width, width)
        fit = _layers(rng, 4 * width, 2 * width, 2 * width, 1)
        return Drawn([*embed, *fit], [places, others, *given])
    table = rng.normal(size=(4, width))
    if name == "schnet":
        parts = [table]
        for _ in range(2):
            before, after = _layers(rng, width, width), _layers(rng, width, width)
            parts += [weight(width, width), *before, *after]
            parts += [weight(WAVES, width), weight(width, width)]
    else:
        shapes = (WAVES, width), (4, width), (4, width), (width, width)
        parts = [table, *(weight(*s) for s in shapes)]
    return Drawn([*parts, *end], [places, others, kinds, *given])
