"""Saved models: loaded by Paddle, their programs run by Pirol where it can.

What paddle.jit.load gives is a Layer that holds a program for each saved method;
each gets a CompiledLayer in the place of the one that Paddle would make.
"""

from __future__ import annotations

import re
from typing import Any

import paddle
from paddle.jit.pir_translated_layer import PirTranslatedLayer

from pirol.compiler.capture.options import Options
from pirol.compiler.capture.seam import CompiledLayer, connect
from pirol.compiler.errors import PirolError, message

_TRACED = re.compile(r"_jst\.\d+\.(\w+)\.\d+")


class LoadedModel(PirTranslatedLayer):  # type: ignore[misc]
    """A saved model as a Layer: positional or named inputs, outputs as saved."""

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run on tensors or NumPy arrays.

        Raises:
            PirolError: the inputs are not those of the saved model.
        """
        return super().__call__(*self._in_order(inputs, named))

    def _in_order(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> list[Any]:
        names = [plain_name(n) for n in self._input_args_names]
        given = dict(zip(names, inputs)) | named
        if len(inputs) + len(named) != len(names) or given.keys() != set(names):
            got = f"{len(inputs)} by position" + "".join(f", {n!r}" for n in named)
            raise PirolError(
                message("a loaded model", got=got, expected=", ".join(names))
            )
        return [given[n] for n in names]


def plain_name(name: str) -> str:
    """The name of an argument, where Paddle made an input's name from one."""
    made = _TRACED.fullmatch(name)
    return made.group(1) if made else name


def is_loaded(layer: Any) -> bool:
    """Whether paddle.jit.load, or this module, made the Layer."""
    return isinstance(layer, PirTranslatedLayer)


def load_inference_model(path: str, options: Options) -> LoadedModel:
    """Load a model saved by jit.save or save_inference_model, and compile it.

    Args:
        path: what was given when saving: the path without `.json`, `.pdiparams`.
        options: how to compile; the report goes there.

    Returns:
        The model, in eval mode.

    Raises:
        ValueError: there is no such model (Paddle's words).
        PirolError: the file holds something else than a PIR program.
    """
    layer = paddle.jit.load(path)
    if not is_loaded(layer):
        got = f"a {type(layer).__name__}"
        raise PirolError(message(path, got=got, expected="a model saved as .json"))
    layer.__class__ = LoadedModel
    compile_loaded(layer, options)
    return layer  # type: ignore[no-any-return]


def compile_loaded(layer: Any, options: Options) -> None:
    """Let Pirol run all methods of a Layer that Paddle loaded."""
    layer._pirol_options = options
    lacking = connect()
    if lacking:
        options.fall_back("everything", lacking)
        return
    for name, holder in layer._program_holder_dict.items():
        made = CompiledLayer(
            holder.infer_program,
            holder.input_vars,
            holder.output_vars,
            (_tensors(layer, holder), holder.persistable_vars),
            build_strategy=options,
        )
        layer._set_partial_program_layer(name, made)


def _tensors(layer: Any, holder: Any) -> list[Any]:
    """The Layer's parameters and buffers in the order of the program's."""
    held = {**layer._parameters, **layer._buffers}
    saved = (holder._suffix_varname_dict[n] for n in holder.persistable_names)
    return [held[layer._persistable_var_name_dict[n]] for n in saved]
