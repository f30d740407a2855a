"""The public functions; Paddle is imported only when one of them is called."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from pirol.compiler import cache
from pirol.compiler.errors import PirolError
from pirol.compiler.report import Report

_TARGET = re.compile(r"cpu|cuda(:sm_\d+)?")
_DEVICE = re.compile(r"cpu|cuda(?::(\d+))?")
DRAWN = ("counter", "eager")
Progress = Callable[[str, float], None]


def to_static(
    function: Any = None,
    *,
    input_spec: Sequence[Any] | None = None,
    full_graph: bool = True,
    strict: bool = False,
    progress: Progress | None = None,
    amp: str | None = None,
    amp_level: str = "O1",
    recompute: str = "auto",
    random: str = "counter",
    numerics: str = "fast",
    compile: str = "sync",
    passes: Sequence[Callable[[Any], Any]] = (),
) -> Any:
    """Compile a function or Layer; usable as a decorator, with or without arguments.

    Args:
        function: a callable, or a paddle.nn.Layer (its forward is compiled in place),
            or what paddle.jit.load gave (all its methods are).
        input_spec: paddle.static.InputSpec per input; a None dim is dynamic, and one
            compile serves all its sizes, 0 and 1 included. A loaded model has its own.
        full_graph: True captures by AST, False by SOT, as paddle.jit.to_static.
        strict: raise StrictError instead of letting Paddle run what Pirol cannot
            compile. PIROL_STRICT=1 sets it for all.
        progress: called with (stage, fraction done) while compiling.
        amp: "bfloat16" or "float16": the float32 program in mixed precision, by the
            lists of paddle.amp (docs/users.md).
        amp_level: "O1", or "O2" for norms, softmax and sums of halves as well.
        recompute: "auto": of what backward reads, elementwise results are computed
            again where that keeps fewer bytes; "none": they are kept.
        random: "counter": dropout's mask is a function of a key, which each call draws
            from Paddle's generator, and of the elements' places; "eager": Paddle draws
            it, as it would in eager mode.
        numerics: "fast": sums are made in the order that is fastest, the same in every
            call; "strict": ops that add up stay Paddle's, in its order, and so do
            calls that need gradients.
        compile: "sync": a call waits for its plan; "async": a plan that is not on disk
            is made in the background, and until it is there Paddle runs the calls.
        passes: your own passes, Graph -> Graph, run before ops are fused; see
            docs/passes.md. One that fails or makes an invalid graph leaves the
            program to Paddle, as all that cannot be compiled.

    Returns:
        What paddle.jit.to_static returns: the same Layer, or a callable. What cannot
        be compiled runs as Paddle runs it; the first time a PirolWarning says so.
    """
    from pirol.compiler.capture.options import Options
    from pirol.passes.amp import checked
    from pirol.passes.partition import AGAIN

    mixed = None if amp is None else checked(amp, amp_level)
    _check("to_static: got recompute", recompute, AGAIN)
    _check("to_static: got random", random, DRAWN)
    _check("to_static: got numerics", numerics, ("fast", "strict"))
    _check("to_static: got compile", compile, ("sync", "async"))

    def compile_it(target: Any) -> Any:
        options = Options(
            strict=strict,
            progress=progress,
            passes=passes,
            amp=mixed,
            recompute=recompute,
            later=compile == "async",
            counted=random == "counter",
            ordered=numerics == "strict",
        )
        return _compiled(target, options, input_spec, full_graph)

    return compile_it if function is None else compile_it(function)


def _check(got: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise PirolError(f"{got} {value!r}, expected {' or '.join(known)}")


def _compiled(target: Any, options: Any, input_spec: Any, full_graph: bool) -> Any:
    import paddle

    from pirol.compiler.capture.quick import quicken
    from pirol.compiler.capture.saved import compile_loaded, is_loaded
    from pirol.compiler.capture.seam import connect
    from pirol.compiler.capture.signature import plain
    from pirol.compiler.capture.sot import own_code

    if is_loaded(target):
        compile_loaded(target, options)
        return target
    lacking = connect()
    if lacking:
        options.fall_back("everything", lacking)
    made = paddle.jit.to_static(
        plain(target),
        input_spec=input_spec,
        build_strategy=options,
        backend=None,
        full_graph=full_graph,
    )
    own_code(getattr(made, "forward", made))
    quicken(getattr(made, "forward", made))
    return made


def train_step(
    layer: Any,
    loss: Any,
    optimizer: Any,
    *,
    labels: int = 1,
    input_spec: Sequence[Any] | None = None,
    strict: bool = False,
    progress: Progress | None = None,
    amp: str | None = None,
    amp_level: str = "O1",
    random: str = "counter",
    passes: Sequence[Callable[[Any], Any]] = (),
) -> Any:
    """Compile a whole training step as one program: loss, backward, clip and update.

    Args:
        layer: a paddle.nn.Layer; it stays as it is, and its mode (train or eval, of
            each layer within too) is that of each call.
        loss: called with the layer's outputs, then the labels, as in paddle.Model: a
            function or Layer. It returns what is minimised, a tensor, or a tuple that
            begins with it. None: the layer returns that itself (and `labels` is 0).
        optimizer: SGD, Momentum, Adam or AdamW of paddle.optimizer, over float32 or
            float64 parameters. Its options are as they are at each call, the learning
            rate with its scheduler above all. Parameters and the optimizer's own
            accumulators are updated in place, so state_dict, set_state_dict and
            its `step` work as ever.
        labels: how many of the step's inputs, the last ones, are for the loss.
        input_spec: paddle.static.InputSpec for each input, labels included.
        strict, progress, amp, amp_level, random, passes: as for `to_static`.

    Returns:
        A callable `step(*inputs)`: the layer's inputs, then the labels. It trains once,
        as `loss.backward(); optimizer.step(); optimizer.clear_grad()` would, and
        returns what the loss did, without gradient. `grad` of parameters is neither
        read nor written. Where it cannot be compiled (another optimizer or clip, halves
        as parameters, sparse gradients, a hook on a parameter), forward and backward
        are compiled as by `to_static`, Paddle's `optimizer.step()` runs, and a
        PirolWarning says why. `explain` takes it.

    Raises:
        TypeError: (the step) fewer inputs than labels.
        StrictError: (the step, if strict) something is left to Paddle.
    """
    from functools import partial

    from pirol.compiler.capture.options import Options
    from pirol.compiler.capture.train_step import TrainStep
    from pirol.passes.amp import checked

    if loss is None:
        labels = 0
    mixed = None if amp is None else checked(amp, amp_level)
    _check("train_step: got random", random, DRAWN)
    options = Options(
        strict=strict,
        progress=progress,
        passes=passes,
        amp=mixed,
        counted=random == "counter",
    )
    spec = None
    if input_spec is not None:
        count = len(input_spec) - labels
        spec = [[*input_spec[:count]], [*input_spec[count:]]]
    compiled = partial(_compiled, options=options, input_spec=spec, full_graph=True)
    return TrainStep(layer, loss, optimizer, labels, compiled, options)


def install() -> None:
    """Let `paddle.jit.to_static` with backend="CINN" (its default), and a BuildStrategy
    with build_cinn_pass=True, mean Pirol from here on. Repeated calls change nothing.

    Raises:
        PirolError: this Paddle lacks what Pirol needs.
    """
    from pirol.compiler.capture import install as seat

    seat.install()


def uninstall() -> None:
    """Undo `install`. What was compiled meanwhile stays as it is."""
    from pirol.compiler.capture import install as seat

    seat.uninstall()


def load_inference_model(
    path: str | os.PathLike[str],
    *,
    strict: bool = False,
    progress: Progress | None = None,
) -> Any:
    """Load and compile a model saved by paddle.jit.save or save_inference_model.

    Args:
        path: the path given when saving, without `.json` and `.pdiparams`.
        strict: as for `to_static`.
        progress: as for `to_static`.

    Returns:
        A Layer; its inputs may be given by position or by name, as tensors or NumPy
        arrays. One output comes as itself, several as a list.

    Raises:
        ValueError: there is no such model.
        PirolError: it was not saved as a PIR program.
    """
    from pirol.compiler.capture import saved
    from pirol.compiler.capture.options import Options

    options = Options(strict=strict, progress=progress)
    return saved.load_inference_model(os.fspath(path), options)


def cache_clear() -> int:
    """Remove all kernels and plans from the cache folder on disk; those in use stay.

    Returns:
        How many kernels and plans were removed.

    Raises:
        OSError: the folder cannot be written.
        PirolError: it is not the user's own.
    """
    return cache.clear()


def explain(compiled: Any, measure: bool = False) -> Report:
    """What became of a compiled function or Layer so far; call it at least once first.

    Args:
        compiled: what `to_static`, `load_inference_model` or, after `install`,
            `paddle.jit.to_static` returned.
        measure: from here on its calls, one at a time, are measured: the next report
            has each group's seconds in the last of them beside those predicted.

    Returns:
        The report; printed, it is a summary.

    Raises:
        PirolError: `compiled` is something else.
    """
    report: Report = _options("explain", compiled).report
    if measure:
        report.measure()
    return report.settled()


def export(
    compiled: Any,
    path: str | os.PathLike[str],
    target: str | Sequence[str] = "cpu",
    cubins: bool = False,
) -> None:
    """Write a compiled function or Layer to a file that `load` runs without Paddle.

    The program is that of the last call, for all sizes of its None dims that broadcast
    as they did then. Its weights are in the file as they are now.

    Args:
        compiled: what `to_static` or `load_inference_model` returned; call it at least
            once first, in eval mode or under paddle.no_grad().
        path: the file; whatever is there is replaced.
        target: what it is for: "cpu", "cuda", "cuda:sm_90", or several such. It is
            noted in the file; kernels are made where it is loaded.
        cubins: also put the kernels for each "cuda:sm_NN" into the file, compiled, for
            machines without NVRTC; `load` takes them only with trusted=True.

    Raises:
        PirolError: it was not compiled, or has ops that only Paddle runs (they are
            listed), or a target that there is none of.
        ImportError, NvrtcError: cubins are wanted, and there is no NVRTC
            (`pip install pirol[cuda]`), or it knows no such device.
        OSError: the file cannot be written.
    """
    from pirol.compiler.archive import write
    from pirol.compiler.capture.exporting import archive

    targets = (target,) if isinstance(target, str) else tuple(target)
    if not targets or not all(map(_TARGET.fullmatch, targets)):
        got = ", ".join(map(repr, targets)) or "none"
        raise PirolError(f"export: got target {got}, expected cpu, cuda or cuda:sm_NN")
    made = archive(_options("export", compiled), targets)
    if cubins:
        from pirol.compiler.loaded import cubins_for

        made = replace(made, cubins=cubins_for(made.graph, targets))
    write(path, made)


def load(
    path: str | os.PathLike[str],
    device: str = "cpu",
    graphs: bool = True,
    trusted: bool = False,
) -> Any:
    """Compile an exported program on this machine; Paddle is not needed.

    Args:
        path: a file that `export` wrote.
        device: where it runs: "cpu", or "cuda", "cuda:1", which needs a CUDA driver and
            NVRTC (`pip install pirol[cuda]`).
        graphs: on CUDA, replay launches that come again, with the same memory and
            sizes, as one CUDA graph; PIROL_CUDA_GRAPHS=0 in the environment forbids it.
        trusted: on CUDA, run cubins of the file where it has them for the device: code
            that is not checked. Without, nothing of a file is executed but the program
            that it spells out.

    Returns:
        A callable of tensors that have `__dlpack__` (NumPy, torch, jax, ..), by
        position or by name (`input_names`); it returns tensors of the library that the
        first of them is from.

    Raises:
        FileNotFoundError: there is no such file.
        PirolError: it is no whole file of `export`'s, or the device is another.
        BuildError: there is no C compiler (cpu).
        ImportError, NvrtcError, RuntimeError: no NVRTC, one that knows no such device,
            or no driver (cuda).
    """
    from pirol.compiler.archive import read
    from pirol.compiler.loaded import Program

    chosen = _DEVICE.fullmatch(device)
    if chosen is None:
        raise PirolError(f"load: got device {device!r}, expected cpu, cuda or cuda:N")
    number = -1 if device == "cpu" else int(chosen.group(1) or 0)
    return Program(read(path), number, graphs, trusted)


def _options(asked: str, compiled: Any) -> Any:
    """The Options that a compiled function or Layer was made with."""
    function = getattr(compiled, "forward", compiled)
    options = getattr(function, "_kwargs", {}).get("build_strategy")
    options = getattr(compiled, "_pirol_options", options)
    if not isinstance(getattr(options, "report", None), Report):
        got = type(compiled).__name__
        raise PirolError(f"{asked}: got {got}, expected what pirol.to_static returned")
    return options
