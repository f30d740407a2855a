"""A call's outputs, joined to the tensors that need gradients, by nodes of Paddle's.

tensor -> view -> stack of all leaves, to which the others are added (a walk to some
tensors alone would go through a stack to all that was stacked) -> scale, unless one
output is all and several tensors are -> view, an output: hooks take cotangents off the
way and put gradients on it; in between are tokens, of one number each. Of one tensor to
one output of its dtype: tensor -> view -> view, with one hook for both. (A PyLayer is
not told which gradients are asked for, fails where it gives more, and ends the process
when it is walked a second time.)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import paddle

from pirol.compiler.capture import native
from pirol.compiler.capture.walks import current
from pirol.compiler.errors import PirolError, message
from pirol.compiler.runtime import Compiled

if TYPE_CHECKING:
    from pirol.compiler.capture.training import Trained

Some = tuple[int, ...]
ONLY: Some = (0,)
AXES = [list(range(rank)) for rank in range(17)]
# As Paddle has them: ours around some (numbers.py, sizes.py) are for captures.
_transpose, _stack = paddle._C_ops.transpose, paddle._C_ops.stack
_scale, _cast = paddle._C_ops.scale, paddle._C_ops.cast
_add = paddle._C_ops.add


def run_plan(plan: Compiled, tensors: Sequence[Any]) -> list[Any] | None:
    """A plan's outputs, which have no gradient."""
    if plan.native:
        return plan.run(tensors)
    with paddle.no_grad(), native.library_threads():
        return plan.run(tensors)


class Kept:
    """What a walk back through a run needs of it."""

    def __init__(self, trained: Trained, tensors: list[Any], kept: list[Any]) -> None:
        self.trained, self.tensors, self.kept = trained, tensors, kept
        self.watched = tensors if trained.private else [*tensors, *kept]
        self.versions = [t._inplace_version() for t in self.watched]

    def is_beyond(self, k: int, targets: frozenset[int]) -> bool:
        """Whether the k-th tensor of `wrt` is a leaf that a walk is not to reach."""
        if not self.tensors:
            return False
        tensor = self.tensors[self.trained.wrt[k]]
        return tensor.is_leaf and id(tensor) not in targets

    def zeros(self, k: int) -> Any:
        """What a tensor of `wrt` gets that a walk is not to reach."""
        tensor = self.tensors[self.trained.wrt[k]]
        return paddle.zeros(tensor.shape, tensor.dtype)

    def gradients(self, some: Some, given: Sequence[Any]) -> list[Any]:
        """Some gradients for the cotangents of the outputs."""
        trained = self.trained
        if not self.is_as_it_was():
            self.refuse()
        plan: Any
        if current.walk.differentiable:
            drawn = [self.kept[k] for k in trained.drawn]
            plan = trained.again(some)
            found = plan.run([*self.tensors, *drawn, *given])
        else:
            plan, used = trained.backward(some), [*self.kept, *given]
            found = run_plan(plan, used)
            if found and not plan.fresh:
                found = _apart(found, used)
        if found is None:
            got, expected = plan.miss(), "cotangents of the outputs' types"
            raise PirolError(message("backward", got=got, expected=expected))
        return list(found)

    def is_as_it_was(self) -> bool:
        """Whether nothing that the gradient needs is gone or was written."""
        versions = self.versions
        return (
            bool(versions) and [t._inplace_version() for t in self.watched] == versions
        )

    def refuse(self) -> None:
        """Raise as eager does where something is gone or was written."""
        if not self.versions:
            raise RuntimeError(
                message(
                    "backward",
                    got="a second walk through what the first one gave back",
                    expected="retain_graph=True at the first one",
                )
            )
        for tensor, version in zip(self.watched, self.versions):
            if tensor._inplace_version() != version:
                expected = f"version {version}: it was written since the forward run"
                got = f"{tensor.name} at version {tensor.inplace_version}"
                raise RuntimeError(message("backward", got=got, expected=expected))

    def release(self) -> None:
        """Give back all that was kept."""
        self.tensors, self.kept, self.watched, self.versions = [], [], [], []


class Call(Kept):
    """Of any number of tensors and outputs: a walk gives the cotangents of the outputs
    first, and then asks for gradients."""

    def __init__(self, trained: Trained, tensors: list[Any], kept: list[Any]) -> None:
        super().__init__(trained, tensors, kept)
        self.shapes: list[Any] = []
        self.cts: dict[int, Any] = {}
        self.found: dict[int, Any] = {}

    def take(self, output: int, token: Any, ct: Any) -> Any:
        """The cotangent of an output, for a token; the first one begins a walk."""
        if self.found:
            self.cts, self.found = {}, {}
        walk = current.walk
        if not (walk.nothings and walk.is_nothing(ct)):
            self.cts[output] = ct
        return token.detach()

    def gradient(self, k: int, token: Any) -> Any:
        """The gradient of the k-th tensor of `wrt`; zeros where the walk has come to a
        leaf that it is not to reach."""
        walk = current.walk
        try:
            if walk.targets and self.is_beyond(k, walk.targets):
                return self.zeros(k)
            if not self.is_reached(k):
                walk.after.append(self.end)
                return walk.nothing(self.tensors[self.trained.wrt[k]])
            if k not in self.found:
                if not self.found:
                    walk.after.append(self.end if walk.retained else self.release)
                some = self.asked_for(k)
                self.found |= zip(some, self.gradients(some, self.cotangents()))
            return self.found[k]
        except Exception as error:
            walk.failed = error
            raise

    def is_reached(self, k: int) -> bool:
        """Whether an output that the walk came through depends on the k-th tensor of
        `wrt`, or nothing of it is left to say."""
        trained = self.trained
        if len(self.cts) == len(trained.active) or not self.tensors:
            return True
        return any(k in trained.reached(output) for output in self.cts)

    def asked_for(self, k: int) -> Some:
        """Places in `wrt` that a walk may ask for at once: the tensors that it is to
        reach, if they are among them; else all that are left."""
        at, targets = self.trained.wrt, current.walk.targets
        left = tuple([j for j in range(len(at)) if j not in self.found])
        if not targets:
            return left
        reached = tuple([j for j in left if id(self.tensors[at[j]]) in targets])
        return reached if k in reached else left

    def cotangents(self) -> list[Any]:
        """Of all float outputs; zeros for those that the walk did not come through."""
        found = []
        for k, (dtype, shape) in enumerate(zip(self.trained.floats, self.shapes)):
            if dtype:
                ct = self.cts.get(k)
                found.append(paddle.zeros(shape, dtype) if ct is None else ct)
        return found

    def end(self) -> None:
        """Give back what belongs to the walk."""
        self.cts, self.found = {}, {}

    def release(self) -> None:
        """Give back all that was kept."""
        self.end()
        super().release()

    def join(self, outputs: list[Any]) -> None:
        """Put the outputs with a gradient to the tensors `wrt` in their places."""
        self.shapes = [t.shape for t in outputs]
        trained = self.trained
        leaves: list[Any] = []
        others: list[Any] = []
        zero = _zeros(trained.token)
        for k, at in enumerate(trained.wrt):
            tensor = self.tensors[at]
            if not tensor.stop_gradient:
                axes = trained.axes[at]
                token = _transpose(tensor, axes) if axes else _view(tensor)
                token.data = zero
                token._register_grad_hook(functools.partial(self.gradient, k))
                (leaves if tensor.is_leaf else others).append(token)
        alone = len(leaves) + len(others) == 1
        shape = (len(leaves),) if len(leaves) > 1 else ()
        whole = _stack(leaves, 0) if shape else (leaves or others).pop()
        for token in others:
            whole = _add(whole, token)
        for k in trained.active:
            inner, dtype = whole, trained.floats[k]
            if alone or len(trained.active) > 1:
                inner = _scale(whole, 1.0, 0.0, True)
            if dtype != trained.token:  # to which a cotangent is cast
                inner = _cast(inner, outputs[k].dtype)
            inner.data = outputs[k]
            take = functools.partial(self.take, k, _zeros(dtype, *shape))
            inner._register_grad_hook(take)
            axes = trained.ends[k]
            outputs[k] = _transpose(inner, axes) if axes else _view(inner)


class Pair(Kept):
    """Of one tensor that needs a gradient, and one output of its dtype, where no other
    output has a cotangent."""

    def join(self, outputs: list[Any]) -> None:
        """Put the output with a gradient to the tensor in its place."""
        trained = self.trained
        (k,), (at,) = trained.active, trained.wrt
        tensor, axes = self.tensors[at], trained.axes[at]
        inner = _transpose(tensor, axes) if axes else _view(tensor)
        inner.data = outputs[k]
        inner._register_grad_hook(self.gradient)
        axes = trained.ends[k]
        outputs[k] = _transpose(inner, axes) if axes else _view(inner)

    def gradient(self, ct: Any) -> Any:
        """The tensor's gradient for the cotangent of the output."""
        walk = current.walk
        try:
            if walk.targets and self.is_beyond(0, walk.targets):
                return self.zeros(0)
            if walk.nothings and walk.is_nothing(ct) and self.tensors:
                return walk.nothing(self.tensors[self.trained.wrt[0]])
            (found,) = self.gradients(ONLY, (ct,))
        except Exception as error:
            walk.failed = error
            raise
        if not walk.retained:
            self.release()
        return found


def joined(
    trained: Trained, tensors: list[Any], kept: list[Any], outputs: list[Any]
) -> list[Any]:
    """A run's outputs, with a gradient to the tensors `wrt`."""
    pair = trained.is_pair
    if pair:
        (at,) = trained.wrt
        some = trained.axes[at] or 0 not in tensors[at].shape
        pair = bool(some) and not tensors[at].stop_gradient
    call = (Pair if pair else Call)(trained, tensors, kept)
    if paddle.is_grad_enabled():
        call.join(outputs)
        return outputs
    with paddle.enable_grad():
        call.join(outputs)
    return outputs


def _view(tensor: Any) -> Any:
    """The tensor behind a node of its own: of those that copy nothing transpose's is
    the quickest; of nothing concat's alone gives a gradient of the tensor's shape."""
    shape = tensor.shape
    if 0 in shape:
        return paddle._C_ops.concat([tensor], 0)
    return _transpose(tensor, AXES[len(shape)])


@functools.lru_cache
def _zeros(dtype: str, *shape: int) -> Any:
    return paddle.zeros(shape, dtype)


def _apart(found: list[Any], given: Sequence[Any]) -> list[Any]:
    """The tensors, those copied that are given ones or occur twice: Paddle adds to
    gradients in place."""
    seen = {id(t) for t in given}
    for k, tensor in enumerate(found):
        if id(tensor) in seen:
            found[k] = tensor.clone()
        seen.add(id(tensor))
    return found
