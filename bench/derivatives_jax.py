"""The losses of derivatives_eager.py as functions for JAX.

LOSSES[name](parameters, inputs) is the loss; derivatives are those of functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

HALF_TURN = 0.5234375
Function = Callable[[Any], Any]


def network(parameters: Sequence[Any], x: Any) -> Any:
    for k in range(0, len(parameters) - 2, 2):
        x = jnp.tanh(x @ parameters[k] + parameters[k + 1])
    return x @ parameters[-2] + parameters[-1]


def solution(parameters: Sequence[Any], out: int = 0) -> Function:
    """[points, dims] -> [points]"""
    return lambda points: network(parameters, points)[:, out]


def by(u: Function, dim: int) -> Function:
    """The derivative of u by one dim of its points."""
    return lambda points: jax.grad(lambda p: u(p).sum())(points)[:, dim]


def square(x: Any) -> Any:
    return (x * x).mean()


def off(parameters: Sequence[Any], ends: Any, values: Any) -> Any:
    return square(network(parameters, ends) - values)


def burgers(parameters: Sequence[Any], inputs: Sequence[Any]) -> Any:
    points, ends, values = inputs
    u = solution(parameters)
    u_x = by(u, 0)
    rest = by(u, 1)(points) + u(points) * u_x(points)
    rest = rest - 0.0078125 * by(u_x, 0)(points)
    return square(rest) + off(parameters, ends, values)


def allen_cahn(parameters: Sequence[Any], inputs: Sequence[Any]) -> Any:
    points, ends, values = inputs
    u = solution(parameters)
    flat = u(points)
    rest = by(u, 1)(points) - 0.0001220703125 * by(by(u, 0), 0)(points)
    rest = rest + 5.0 * flat * (flat * flat - 1.0)
    return square(rest) + off(parameters, ends, values)


def euler_beam(parameters: Sequence[Any], inputs: Sequence[Any]) -> Any:
    points, left, right = inputs
    orders = [solution(parameters)]
    for _ in range(4):
        orders.append(by(orders[-1], 0))
    at = [orders[0](left), orders[1](left), orders[2](right), orders[3](right)]
    return square(orders[4](points) + 1.0) + sum((x * x).sum() for x in at)


def kuramoto_sivashinsky(parameters: Sequence[Any], inputs: Sequence[Any]) -> Any:
    points, ends, values = inputs
    u = solution(parameters)
    u_x = by(u, 0)
    u_xx = by(u_x, 0)
    fourth = by(by(u_xx, 0), 0)
    rest = by(u, 1)(points) + u(points) * u_x(points) + u_xx(points) + fourth(points)
    return square(rest) + off(parameters, ends, values)


def navier_stokes(parameters: Sequence[Any], inputs: Sequence[Any]) -> Any:
    points, ends, values = inputs
    u, v, p = (solution(parameters, k) for k in range(3))
    total = square(by(u, 0)(points) + by(v, 1)(points))
    for k, w in enumerate((u, v)):
        w_x, w_y = by(w, 0), by(w, 1)
        flow = by(w, 2)(points) + u(points) * w_x(points) + v(points) * w_y(points)
        bent = by(w_x, 0)(points) + by(w_y, 1)(points)
        total = total + square(flow + by(p, k)(points) - 0.0078125 * bent)
    return total + off(parameters, ends, values)


def poisson(parameters: Sequence[Any], inputs: Sequence[Any]) -> Any:
    points, source, ends, values = inputs
    u = solution(parameters)
    rest = -source[:, 0]
    for k in range(3):
        rest = rest + by(by(u, k), k)(points)
    return square(rest) + off(parameters, ends, values)


def matched(energy: Function, places: Any, given: Sequence[Any]) -> Any:
    found, slope = jax.value_and_grad(energy)(places)
    missing = found - given[0]
    return missing * missing + square(-slope - given[1])


def near(places: Any, others: Any) -> tuple[Any, Any, Any]:
    way = places[others] - places[:, None]
    length = jnp.sqrt((way * way).sum(-1, keepdims=True))
    return way, length, 0.5 * jnp.cos(length * HALF_TURN) + 0.5


def waves(length: Any) -> Any:
    steps = [jnp.exp(-((length - 0.75 * k) ** 2)) for k in range(8)]
    return jnp.concatenate(steps, -1)


def deepmd(parameters: Sequence[Any], inputs: Sequence[Any]) -> Any:
    start, others, *given = inputs

    def energy(places: Any) -> Any:
        way, length, weight = near(places, others)
        inverse = weight / length
        around = jnp.concatenate([inverse, inverse * way / length], -1)
        seen = network(parameters[:6], inverse)
        whole = seen.transpose(0, 2, 1) @ around / others.shape[1]
        flat = whole @ whole[:, :4].transpose(0, 2, 1)
        return network(parameters[6:], flat.reshape(len(places), -1)).sum()

    return matched(energy, start, given)


def soft(x: Any) -> Any:
    return jax.nn.softplus(x) - 0.6931471824645996


def schnet(parameters: Sequence[Any], inputs: Sequence[Any]) -> Any:
    start, others, kinds, *given = inputs

    def energy(places: Any) -> Any:
        _, length, weight = near(places, others)
        atoms = parameters[0][kinds]
        for k in (1, 8):
            inner, before, bias, after, least, first, second = parameters[k : k + 7]
            filters = soft(waves(length) @ first) @ second * weight
            sent = (atoms @ inner)[others] * filters
            atoms = atoms + soft(sent.sum(1) @ before + bias) @ after + least
        return network(parameters[15:], atoms).sum()

    return matched(energy, start, given)


def spherenet(parameters: Sequence[Any], inputs: Sequence[Any]) -> Any:
    start, others, kinds, *given = inputs
    table, radial, first, second, change, *fit = parameters

    def energy(places: Any) -> Any:
        way, length, weight = near(places, others)
        sent = waves(length) @ radial * weight * table[kinds][others]
        on, reach, along = way[others], length[others], way[:, :, None]
        across = length[:, :, None]
        cosine = (on * along).sum(-1, keepdims=True) / (reach * across)
        turn = (jnp.cross(along, on) * on[:, :, :1]).sum(-1, keepdims=True)
        turn = turn / (reach * across * reach[:, :, :1])
        shape = jnp.concatenate([cosine, cosine * cosine, turn, turn * cosine], -1)
        for weights in (first, second):
            heard = (sent[others] * (shape @ weights * weight[:, :, None])).sum(2)
            sent = sent + jax.nn.silu(heard @ change)
        return network(fit, (sent * weight).sum(1)).sum()

    return matched(energy, start, given)


LOSSES: dict[str, Callable[..., Any]] = {
    loss.__name__: loss
    for loss in (
        *(burgers, allen_cahn, poisson, navier_stokes, euler_beam),
        *(kuramoto_sivashinsky, deepmd, schnet, spherenet),
    )
}
