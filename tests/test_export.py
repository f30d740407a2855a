"""Exported programs: equal to Paddle's results without Paddle; bad files; refusals."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import pirol
from pirol.bench.graphnet import HERE, load
from pirol.compiler import archive
from pirol.compiler.capture import plans
from pirol.compiler.errors import PirolError, PirolWarning

SPEC = paddle.static.InputSpec
NN = paddle.nn
rng = np.random.default_rng(11)


def data(*shape: int, dtype: str = "float32") -> Any:
    return (3 * rng.normal(size=shape)).astype(dtype)


class Net(NN.Layer):
    """A conv net with nested outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = NN.Conv2D(3, 8, 3, padding=1, stride=2)
        self.norm = NN.BatchNorm2D(8)
        self.head = NN.Linear(8, 5)

    def forward(self, image: Any) -> Any:
        x = NN.functional.relu(self.norm(self.conv(image)))
        mean = x.mean([2, 3])
        return {"logits": self.head(mean), "parts": [x, (mean, None)]}, 3


def attend(x: Any, y: Any) -> Any:
    scores = paddle.matmul(x, y, transpose_y=True) / 8.0
    return paddle.matmul(NN.functional.softmax(scores), y), scores


def rows(x: Any, table: Any) -> Any:
    return NN.functional.embedding(x, table) * 2.0, (x % 3 == 0).astype("int8")


def passed(x: Any, y: Any) -> Any:
    return x, x.reshape([-1]), y


def exported(function: Any, path: Path, *given: Any, **options: Any) -> Any:
    """(the file's program, what the exported function returned)."""
    made = pirol.to_static(function, strict=True, **options)
    with paddle.no_grad():
        result = made(*map(paddle.to_tensor, given))
    pirol.export(made, path)
    return pirol.load(path), result


def close(found: Any, expected: Any) -> None:
    assert type(found) is type(expected) or isinstance(expected, paddle.Tensor)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, item in expected.items():
            close(found[name], item)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            close(one, other)
    elif isinstance(expected, paddle.Tensor):
        other = expected.numpy()
        assert found.dtype == other.dtype and found.shape == other.shape
        whole = other.dtype.kind in "biu"
        near = 0 if whole else 1e-6 * max(np.abs(other).max(initial=0), 1)
        np.testing.assert_allclose(found, other, rtol=0 if whole else 1e-6, atol=near)
    else:
        assert found == expected


def test_unknown_sizes_that_must_be_equal(tmp_path: Path) -> None:
    spec = [SPEC([None, None], name="x"), SPEC([None, None], name="y")]
    given = data(5, 6), data(6, 7)
    run, expected = exported(paddle.matmul, tmp_path / "f", *given, input_spec=spec)
    close(run(*given), expected)
    x, y = data(3, 2), data(2, 4)
    np.testing.assert_allclose(run(x, y), x @ y, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="input y: extent 3 at axis 0, expected 2"):
        run(x, data(3, 4))


def test_a_layer_with_nested_outputs_at_many_sizes(tmp_path: Path) -> None:
    net = Net()
    net.eval()
    spec = [SPEC([None, 3, None, None], name="image")]
    run, result = exported(net, tmp_path / "n", data(2, 3, 9, 7), input_spec=spec)
    plain = Net()
    plain.set_state_dict(net.state_dict())
    plain.eval()
    assert run.input_names == ("image",)
    for shape in ((2, 3, 9, 7), (5, 3, 8, 11), (3, 3, 31, 2)):
        x = data(*shape)
        close(run(x), plain(paddle.to_tensor(x)))
        close(run(image=x), plain(paddle.to_tensor(x)))
    assert run(data(0, 3, 9, 7))[0]["logits"].shape == (0, 5)


def test_running_statistics_are_the_files_own(tmp_path: Path) -> None:
    norm, plain, x = NN.BatchNorm1D(4), NN.BatchNorm1D(4), data(6, 4)
    run, result = exported(norm, tmp_path / "n", x)
    first = norm._mean.numpy()
    close(plain(paddle.to_tensor(x)).numpy(), result)
    for _ in range(3):
        x = data(6, 4)
        close(run(x), plain(paddle.to_tensor(x)))
        held = np.from_dlpack(run._weights[norm._mean.name])
        np.testing.assert_allclose(held, plain._mean.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(norm._mean.numpy(), first)


def test_functions_of_other_dtypes(tmp_path: Path) -> None:
    table, x = data(9, 4), rng.integers(0, 9, (3, 2))
    run, result = exported(rows, tmp_path / "r", x, table)
    close(run(x, table), result)
    run, result = exported(passed, tmp_path / "p", data(3, 2), x)
    given = (data(3, 2), x)
    close(run(*given), passed(*map(paddle.to_tensor, given)))


@pytest.mark.full
@pytest.mark.filterwarnings(f"ignore::{PirolWarning.__module__}.PirolWarning")
def test_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered: list[Any] = []
    before = plans.lower

    def lower(*given: Any, **options: Any) -> Any:
        lowered.append(before(*given, **options))
        return lowered[-1]

    monkeypatch.setattr(plans, "lower", lower)
    monkeypatch.setenv("PIROL_CACHE_DIR", str(tmp_path / "cache"))
    done = 0
    for path in sorted(HERE.glob("*.json.gz")):
        lowered.clear()
        expected = load(path).pirols()[0](load(path).draw())
        (made,) = lowered
        if any(
            op.name not in ("group", "check", "bind") for op in made.stages["fuse"].ops
        ):
            continue
        graph = made.stages["canonicalize"]
        sources = tuple(
            archive.Source(f"x{k}", False) for k in range(len(graph.inputs))
        )
        form = ["list", [["output", k] for k in range(len(expected))]]
        file = tmp_path / "graph.pirol"
        archive.write(file, archive.Archive(graph, sources, form, {}, ("cpu",)))
        inputs = [t.numpy() for t in load(path).draw()]
        for found, other in zip(pirol.load(file)(*inputs), expected):
            np.testing.assert_array_equal(found, other.numpy())
        done += 1
    assert done >= 8


class Old:
    """A producer of capsules as before DLPack 1.0."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self) -> Any:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def shifted(x: Any) -> Any:
    return x * 2.0 + 1.0


def doubled_in_place(x: Any) -> Any:
    paddle.assign(x * 2.0, x)
    return x + 1.0


def test_inputs_of_every_kind(tmp_path: Path) -> None:
    run, _ = exported(shifted, tmp_path / "s", data(4, 6))
    base = data(8, 12)
    frozen = base[:4, :6].copy()
    frozen.flags.writeable = False
    for x in (base[::2, ::-2], base[3::-1, 6:], frozen, np.asfortranarray(frozen)):
        np.testing.assert_array_equal(run(x), x * np.float32(2) + np.float32(1))
    found = run(paddle.to_tensor(frozen))
    assert isinstance(found, paddle.Tensor)
    close(found.numpy(), paddle.to_tensor(run(frozen)))
    other = run(Old(frozen.copy()))  # of no library: it can be taken on
    np.testing.assert_array_equal(np.from_dlpack(other), run(frozen))
    np.testing.assert_array_equal(np.from_dlpack(run(other)), run(run(frozen)))


def test_results_live_on_their_own(tmp_path: Path) -> None:
    run, _ = exported(shifted, tmp_path / "s", data(64, 64))
    x = data(64, 64)
    kept = [run(x + k) for k in range(20)]
    kept[0][:] = 0  # theirs to write to
    del run
    for k, found in enumerate(kept[1:], 1):
        np.testing.assert_array_equal(found, (x + k) * np.float32(2) + np.float32(1))


def test_inputs_are_written_in_place_where_the_program_does(tmp_path: Path) -> None:
    run, _ = exported(doubled_in_place, tmp_path / "d", data(3, 4))
    x = data(3, 8)[:, ::2]
    before = x.copy()
    np.testing.assert_array_equal(run(x), before * 2 + 1)
    np.testing.assert_array_equal(x, before * 2)
    x.flags.writeable = False
    with pytest.raises(PirolError, match="x: got read-only memory, expected memory"):
        run(x)


WRONG: tuple[tuple[Any, Any, str], ...] = (
    ((), TypeError, "inputs: got 0 by position, expected x"),
    ((data(2, 3), data(2, 3)), TypeError, "got 2 by position"),
    (([1.0],), TypeError, "input x: a list is not a tensor"),
    ((data(2, 3, dtype="float64"),), ValueError, "input x: float64, expected float32"),
    ((data(2, 4),), ValueError, "input x: extent 4 at axis 1, expected 3"),
    ((data(6),), ValueError, "input x: rank 1, expected 2"),
)


@pytest.mark.parametrize("given, kind, text", WRONG, ids=lambda v: str(v)[:20])
def test_wrong_inputs(given: Any, kind: Any, text: str, tmp_path: Path) -> None:
    run, _ = exported(shifted, tmp_path / "s", data(2, 3))
    with pytest.raises(kind, match=text):
        run(*given)
    assert run(data(2, 3)).shape == (2, 3)


def test_another_process_without_paddle(tmp_path: Path) -> None:
    net = Net()
    net.eval()
    x = data(2, 3, 9, 7)
    _, result = exported(net, tmp_path / "n", x)
    np.savez(tmp_path / "d.npz", x=x, y=result[0]["logits"].numpy())
    text = (
        "import sys\n"
        "sys.modules['paddle'] = None\n"
        "import numpy as np, pirol\n"
        "d = np.load(sys.argv[2])\n"
        "found = pirol.load(sys.argv[1])(d['x'])[0]['logits']\n"
        "np.testing.assert_allclose(found, d['y'], rtol=1e-6, atol=1e-6)\n"
    )
    command = [sys.executable, "-c", text, str(tmp_path / "n"), str(tmp_path / "d.npz")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]


# ---- refusals ----


def paddles(x: Any) -> Any:
    return paddle.logcumsumexp(x) + 1, paddle.tanh(x)


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    file = tmp_path / "f"
    with pytest.raises(PirolError, match="export: got function, expected what"):
        pirol.export(shifted, file)
    made = pirol.to_static(shifted)
    with pytest.raises(PirolError, match="a program that Pirol has not run"):
        pirol.export(made, file)
    made(paddle.ones([2]))
    expected = "got target 'tpu', expected cpu, cuda or cuda:sm_NN"
    with pytest.raises(PirolError, match=expected):
        pirol.export(made, file, target="tpu")
    with pytest.warns(UserWarning, match="logcumsumexp"):
        made = pirol.to_static(paddles)
        made(paddle.ones([2]))
    line = r"ops that only Paddle runs: pd_op.logcumsumexp \(test_export.py:\d+\)"
    with pytest.raises(PirolError, match=line):
        pirol.export(made, file)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        pirol.load(file)
    with pytest.raises(FileNotFoundError):
        made = pirol.to_static(shifted)
        made(paddle.ones([2]))
        pirol.export(made, tmp_path / "no" / "folder")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A good file's bytes."""
    file = tmp_path_factory.mktemp("whole") / "f"
    exported(NN.Linear(3, 2), file, data(4, 3))
    return file.read_bytes()


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(PirolError) as caught:
        pirol.load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_that_was_cut_off(whole: bytes, tmp_path: Path) -> None:
    for size in (0, 1, 30, len(whole) // 2, len(whole) - 1):
        refused(tmp_path / "f", whole[:size])
    refused(tmp_path / "f", b"\x80\x04K\x01." * 40)


def test_a_file_with_changed_bytes(whole: bytes, tmp_path: Path) -> None:
    """Each is refused, or the byte is one of the zip's that nothing depends on."""
    good, refusals = read(tmp_path, whole), 0
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        try:
            found = read(tmp_path, bytes(changed))
        except PirolError:
            refusals += 1
        else:
            assert str(found.graph) == str(good.graph) and found.form == good.form
            for name, held in good.weights.items():
                np.testing.assert_array_equal(found.weights[name], held)
    assert refusals > len(whole) * 0.8


def read(folder: Path, content: bytes) -> archive.Archive:
    (folder / "f").write_bytes(content)
    return archive.read(folder / "f")


Edit = Callable[[dict[str, Any]], None]


def edited(whole: bytes, folder: Path, edit: Edit) -> bytes:
    """The file with its parts changed, and sums that fit."""
    (folder / "a").write_bytes(whole)
    with zipfile.ZipFile(folder / "a") as file:
        parts: dict[str, Any] = {n: file.read(n) for n in file.namelist()}
    parts["manifest.json"] = json.loads(parts["manifest.json"])
    edit(parts)
    manifest = parts.pop("manifest.json")
    if isinstance(manifest, bytes):
        return _zipped(folder, {"manifest.json": manifest, **parts})
    if "sha256" in manifest:
        sums = {k: hashlib.sha256(v).hexdigest() for k, v in parts.items()}
        manifest["sha256"] = sums
    return _zipped(folder, {"manifest.json": json.dumps(manifest), **parts})


def _zipped(folder: Path, parts: dict[str, Any]) -> bytes:
    with zipfile.ZipFile(folder / "b", "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return (folder / "b").read_bytes()


def graph(old: str, new: str) -> Edit:
    def edit(parts: dict[str, Any]) -> None:
        assert old.encode() in parts["graph.ir"]
        parts["graph.ir"] = parts["graph.ir"].replace(old.encode(), new.encode(), 1)

    return edit


def manifest(**new: Any) -> Edit:
    return lambda parts: parts["manifest.json"].update(new)


def without(*names: str) -> Edit:
    def edit(parts: dict[str, Any]) -> None:
        for name in names:
            parts.pop(name, None)
            parts["manifest.json"].pop(name, None)

    return edit


def deep(parts: dict[str, Any]) -> None:
    parts["manifest.json"] = b'{"format": ' + b"[" * 200_000


TAMPERED: tuple[tuple[str, Edit, str], ...] = (
    ("another format", manifest(format="onnx"), "got onnx 1, expected format pirol"),
    ("a later version", manifest(version=2), "got pirol 2, expected format pirol, v"),
    ("a new primitive", manifest(primitives=["warp"]), "got warp.*a newer Pirol"),
    ("no sums", without("sha256"), "KeyError"),
    ("no graph", without("graph.ir"), "KeyError"),
    ("no weights", without("weights.safetensors"), "KeyError"),
    ("other weights", lambda p: p.update({"weights.safetensors": b"{}"}), "Safetensor"),
    ("other sources", manifest(sources=[]), "0 sources for 3 inputs"),
    ("other outputs", manifest(outputs=["output", 7]), "bad form"),
    ("bad outputs", manifest(outputs={"a": 1}), "ValueError|TypeError"),
    ("too deep", deep, "RecursionError"),
    ("an unknown op", graph("dot_general(", "os_system("), "os_system"),
    ("another type", graph("f32[4, 3]", "f32[4, 5]"), "."),
    ("an opaque op", graph("dot_general(", "opaque("), "got opaque"),
    ("no text", lambda p: p.update({"graph.ir": b"\xff\xfe"}), "UnicodeDecodeError"),
    ("half a text", lambda p: p.update({"graph.ir": p["graph.ir"][:90]}), "graph text"),
)


@pytest.mark.parametrize("name, edit, words", TAMPERED, ids=lambda v: str(v)[:20])
def test_a_file_with_changed_parts(
    name: str, edit: Edit, words: str, whole: bytes, tmp_path: Path
) -> None:
    text = refused(tmp_path / "f", edited(whole, tmp_path, edit))
    assert re.search(words, text), text
