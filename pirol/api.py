"""The public functions; Paddle is imported only when one of them is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pirol.compiler.errors import PirolError
from pirol.compiler.report import Report


def to_static(
    function: Any = None,
    *,
    input_spec: Sequence[Any] | None = None,
    full_graph: bool = True,
    strict: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> Any:
    """Compile a function or Layer; usable as a decorator, with or without arguments.

    Args:
        function: a function, or a paddle.nn.Layer (its forward is compiled in place).
        input_spec: paddle.static.InputSpec per input; a None dim is dynamic, and one
            compile serves all its sizes, 0 and 1 included.
        full_graph: True captures by AST, False by SOT, as paddle.jit.to_static.
        strict: raise StrictError instead of letting Paddle run what Pirol cannot
            compile. PIROL_STRICT=1 sets it for all.
        progress: called with (stage, fraction done) while compiling.

    Returns:
        What paddle.jit.to_static returns: the same Layer, or a callable. What cannot
        be compiled runs as Paddle runs it; the first time a PirolWarning says so.
    """
    import paddle

    from pirol.compiler.capture.seam import Options, connect

    def compile_it(target: Any) -> Any:
        options = Options(strict=strict, progress=progress)
        lacking = connect()
        if lacking:
            options.fall_back("everything", lacking)
        return paddle.jit.to_static(
            target,
            input_spec=input_spec,
            build_strategy=options,
            backend=None,
            full_graph=full_graph,
        )

    return compile_it if function is None else compile_it(function)


def explain(compiled: Any) -> Report:
    """What became of a compiled function or Layer so far; call it at least once first.

    Raises:
        PirolError: `compiled` does not come from `pirol.to_static`.
    """
    function = getattr(compiled, "forward", compiled)
    kwargs = getattr(function, "_kwargs", {})
    report = getattr(kwargs.get("build_strategy"), "report", None)
    if not isinstance(report, Report):
        raise PirolError(
            f"explain: got {type(compiled).__name__}, expected what pirol.to_static "
            "returned"
        )
    return report
