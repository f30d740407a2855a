"""The file that `export` writes: a zip of a manifest, a graph as text, and weights.

manifest.json  format and version, inputs, outputs' form, SHA-256 of the other two
graph.ir       the canonical graph in primitives and calls (compiler/text.py)
weights.safetensors

Nothing in it is run: the graph is parsed, verified and compiled where it is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, BinaryIO

import numpy as np
from safetensors import deserialize
from safetensors.numpy import save

from pirol.compiler.errors import PirolError, message
from pirol.compiler.ir import DTYPES, LONG, Graph
from pirol.compiler.text import parse_graph, print_graph
from pirol.compiler.verify import verify
from pirol.prim import PRIMS

VERSION = 1
MANIFEST, GRAPH, WEIGHTS = "manifest.json", "graph.ir", "weights.safetensors"
CUBINS = "cubins/"
RANDOM = "pirol.random_state"  # the weight that keys of dropout come from


@dataclass(frozen=True)
class Source:
    """Where an input of the graph comes from: the caller, or the weights."""

    name: str
    weight: bool


@dataclass(frozen=True)
class Archive:
    """An exported program.

    sources: one for each input of the graph; form: how the outputs are nested, lists
    of ["list" | "tuple" | "dict" | "output" | "value", what]; targets: what it was
    exported for; cubins: kernels for CUDA by architecture and text.
    """

    graph: Graph
    sources: tuple[Source, ...]
    form: Any
    weights: Mapping[str, np.ndarray[Any, Any]]
    targets: tuple[str, ...]
    cubins: Mapping[str, bytes] = field(default_factory=dict)


def write(path: str | os.PathLike[str], archive: Archive) -> None:
    """Write a file, whole or not at all."""
    parts = {
        GRAPH: print_graph(archive.graph).encode(),
        WEIGHTS: save(dict(archive.weights)),
        **{f"{CUBINS}{name}": image for name, image in archive.cubins.items()},
    }
    manifest = {
        "format": "pirol",
        "version": VERSION,
        "primitives": sorted(_primitives(archive.graph)),
        "targets": archive.targets,
        "sources": [asdict(s) for s in archive.sources],
        "outputs": archive.form,
        "sha256": {k: hashlib.sha256(v).hexdigest() for k, v in parts.items()},
    }
    partial = f"{os.fspath(path)}.{os.getpid()}.partial"
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as file:
            file.writestr(MANIFEST, json.dumps(manifest, indent=1))
            for name, data in parts.items():
                file.writestr(name, data)
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


def _primitives(graph: Graph) -> set[str]:
    return {op.name for op in graph.walk() if op.name != "call"}


def read(path: str | os.PathLike[str]) -> Archive:
    """Read and check a file.

    Raises:
        FileNotFoundError: there is none.
        PirolError: it is not what `write` made, or has been changed.
    """
    with open(path, "rb") as file:
        try:
            return _read(file)
        except PirolError as error:
            raise PirolError(f"{os.fspath(path)}: {error}") from error
        except Exception as error:  # whatever zip, JSON, text or safetensors may raise
            raise _bad(path, f"{type(error).__name__}: {error}") from error


def _bad(path: str | os.PathLike[str], what: str) -> PirolError:
    expected = "a file that pirol.export wrote"
    return PirolError(message(os.fspath(path), got=what, expected=expected))


def _read(file: BinaryIO) -> Archive:
    with zipfile.ZipFile(file) as members:
        manifest = json.loads(members.read(MANIFEST))
        if manifest["format"] != "pirol" or manifest["version"] != VERSION:
            got = f"{manifest['format']} {manifest['version']}"
            raise PirolError(
                message(MANIFEST, got=got, expected=f"format pirol, version {VERSION}")
            )
        unknown = sorted(set(manifest["primitives"]) - PRIMS.keys())
        if unknown:
            raise PirolError(
                message(GRAPH, got=", ".join(unknown), expected="known primitives")
                + "; a newer Pirol wrote it: install that"
            )
        graph, weights = (_part(members, manifest, k) for k in (GRAPH, WEIGHTS))
        names = [k for k in manifest["sha256"] if k.startswith(CUBINS)]
        images = {k.removeprefix(CUBINS): _part(members, manifest, k) for k in names}
    return replace(_checked(manifest, graph.decode(), weights), cubins=images)


def _part(members: zipfile.ZipFile, manifest: Any, name: str) -> bytes:
    data = members.read(name)
    if hashlib.sha256(data).hexdigest() != manifest["sha256"][name]:
        raise PirolError(f"{name} is not as it was written (its SHA-256 differs)")
    return data


def _checked(manifest: Any, text: str, data: bytes) -> Archive:
    graph = parse_graph(text)
    verify(graph, "calls")
    strange = _primitives(graph) - PRIMS.keys()
    if strange:
        raise PirolError(message(GRAPH, got=", ".join(strange), expected="primitives"))
    sources = tuple(
        Source(str(s["name"]), s["weight"] is True) for s in manifest["sources"]
    )
    weights = dict(_weights(data))
    if len(sources) != len(graph.inputs):
        raise PirolError(f"{len(sources)} sources for {len(graph.inputs)} inputs")
    for source, value in zip(sources, graph.inputs):
        if source.weight:
            held = weights[source.name]
            if (held.shape, str(held.dtype)) != (value.shape, value.dtype):
                got = f"{held.dtype}{[*held.shape]}"
                raise PirolError(
                    message(source.name, got=got, expected=str(value.type))
                )
    _check_form(manifest["outputs"], len(graph.outputs))
    targets = tuple(map(str, manifest["targets"]))
    return Archive(graph, sources, manifest["outputs"], weights, targets)


def _weights(data: bytes) -> Iterator[tuple[str, Any]]:
    """The weights by name, each a copy: aligned, and writable where the program writes
    to it. (What safetensors has for NumPy knows no bfloat16.)"""
    for name, held in deserialize(data):  # type: ignore[no-untyped-call]
        kind = LONG.get(held["dtype"].lower(), "bool")
        flat = np.frombuffer(held["data"], DTYPES[kind][1])
        yield name, flat.reshape(held["shape"]).copy()


def _check_form(form: Any, outputs: int) -> None:
    kind, what = form
    if kind in ("list", "tuple"):
        for item in what:
            _check_form(item, outputs)
    elif kind == "dict":
        for item in what.values():
            _check_form(item, outputs)
    elif not (kind == "value" or (kind == "output" and what in range(outputs))):
        raise ValueError(f"outputs: bad form {form!r}")


def nested(form: Any, outputs: Sequence[Any]) -> Any:
    """Outputs as the exported function returned them."""
    kind, what = form
    if kind == "dict":
        return {name: nested(item, outputs) for name, item in what.items()}
    if kind == "output":
        return outputs[what]
    if kind == "value":
        return what
    items = [nested(item, outputs) for item in what]
    return tuple(items) if kind == "tuple" else items
