"""The short way into a compiled function: to the plan, past Paddle's own key and guard.

A call of tensors, or lists of them, that Paddle's way has served once is tried on the
same program layer's plans, which check dtypes and shapes natively; what they do not
take goes Paddle's way again. Where gradients are needed, the program depends on which
arguments stop them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import paddle
from paddle.base import core
from paddle.base.framework import global_var
from paddle.jit.dy2static.program_translator import ASTStaticFunction

from pirol.compiler.capture import sizes
from pirol.compiler.capture.orders import captured
from pirol.compiler.capture.overwritten import dropouts
from pirol.compiler.capture.seam import CompiledLayer, ForEager, last_served
from pirol.compiler.capture.signature import open_to_all
from pirol.compiler.capture.state import Changes, State

MOST_STATES = 16  # of Layers, of which a function keeps the programs
MOST = 4  # program layers tried one after the other for one count of arguments
OF_CAPTURE = ("with_hook", "is_train", "is_prim_infer")
TENSORS = (core.eager.Tensor, paddle.base.framework.EagerParamBase)


class QuickFunction(ASTStaticFunction):  # type: ignore[misc]
    """A StaticFunction that knows which program layers have served its calls."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As StaticFunction: the outputs of the function."""
        state = self.settled()
        if state is None:
            return self._function_spec.dygraph_function(*args, **kwargs)
        known = state.layers
        # Only a Layer has the mode; of another class Paddle says what is wrong.
        training = getattr(self.class_instance, "training", self._training)
        tracer = global_var._dygraph_tracer_
        gradients = tracer is not None and tracer._has_grad
        tensors, form = _flat(args)
        stops = _stops(tensors) if gradients else ()
        key = (training, form, stops) if gradients else (training, form)
        layers = known.get(key)
        if layers and not kwargs and self._program_trans.enable_to_static:
            for layer in layers if tracer is not None else ():
                found = layer.quick(tensors, gradients)
                if found is not None:
                    return found[0]
        last_served.forget()
        call = super().__call__
        sizes.noted.calls += 1
        try:
            result = captured(lambda: call(*args, **kwargs))
        except ForEager:
            result = self.dygraph_function(*args, **kwargs)
        except Exception as error:
            result = self._as_eager(error, args, kwargs)
        finally:
            sizes.noted.calls -= 1
        served, plain = last_served.layer, all(type(t) in TENSORS for t in tensors)
        if served is not None and not kwargs and plain:
            self._remember(known.setdefault(key, []), served)
        return result

    def _as_eager(
        self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """What the function itself gives, where Paddle's run of its program fails: in a
        program Paddle does not always do what it does in eager mode."""
        options = self._kwargs["build_strategy"]
        if not last_served.failed or options.strict:
            raise error
        last_served.forget()
        try:
            found = self.dygraph_function(*args, **kwargs)
        except Exception:
            raise error from None
        sizes.leave(self, f"Paddle's run of the program fails: {sizes.told(error)}")
        return found

    def get_concrete_program(self, *args: Any, **kwargs: Any) -> Any:
        """As StaticFunction: a captured program and its layer, which serve later calls
        that need gradients as well, if this one does not."""
        capture = super().get_concrete_program
        given = {k: v for k, v in kwargs.items() if k not in OF_CAPTURE}
        state = self.settled() or self._pirol_python[-1]
        counted = self._kwargs["build_strategy"].counted
        with state.noted(), paddle.enable_grad(), dropouts(counted):
            first = functools.partial(captured, lambda: capture(*args, **kwargs))
            return sizes.captured(self, first, given)

    def settled(self) -> State | None:
        """What was captured of Layers as they are now; None where these are others
        again and again."""
        found: State | None = self.__dict__.get("_pirol_state")
        same = self.__dict__.get("_pirol_seen") == Changes.count
        if same and (found is None or not found.outside or found.stands()):
            return found
        self._pirol_seen = Changes.count
        states = self.__dict__.setdefault("_pirol_python", [])
        found = next((s for s in states if s.holds()), None)
        if found is None and len(states) == MOST_STATES:
            _, name = states[-1].changed()
            why = f"{name} is another number or object in each call"
            self._kwargs["build_strategy"].fall_back("the call", why)
        elif found is None:
            found = State()
            states.append(found)
        self._pirol_state = found
        if found is not None:
            self._program_cache = found.cache
        return found

    def _clone(self) -> QuickFunction:
        """As StaticFunction: for a Layer, of a method compiled in its class."""
        made = type(self)(self._dygraph_function, self._input_spec, **self._kwargs)
        open_to_all(made, of_layer=True)
        return made

    def _remember(self, layers: list[CompiledLayer], served: CompiledLayer) -> None:
        if served not in layers and len(layers) < MOST:
            layers.append(served)


def _flat(arguments: Sequence[Any]) -> tuple[Sequence[Any], Any]:
    """What lists and tuples hold, in order, and how it is nested: by a number, if it is
    not."""
    if not any([type(a) is list or type(a) is tuple for a in arguments]):
        return arguments, len(arguments)
    found: list[Any] = []

    def form(part: Any) -> Any:
        if type(part) is list or type(part) is tuple:
            return (type(part), *map(form, part))
        found.append(part)
        return None

    return found, tuple(map(form, arguments))


def _stops(tensors: Sequence[Any]) -> tuple[Any, ...]:
    """Which of them stop gradients; (None,) where one is no tensor."""
    try:
        return (*[t.stop_gradient for t in tensors],)
    except AttributeError:
        return (None,)


def quicken(function: Any) -> None:
    """Give a StaticFunction the short way, and calls of any arguments; what SOT made
    stays as it is."""
    if type(function) is ASTStaticFunction:
        function.__class__ = QuickFunction
        open_to_all(function)
