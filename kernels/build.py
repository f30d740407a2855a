"""Kernel text -> machine code: finds a C compiler, builds, keeps results on disk.

A built kernel is `KEY.so` with its SHA-256 in `KEY.sum`, in the user's own folder
(0700); what does not fit its sum, or is not the user's, is built again. Kernels that
were built together are links of one file.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pirol.compiler.errors import BuildError
from pirol.kernels.render import HEADERS

FLAGS = (
    "-O3",
    "-march=native",
    "-std=gnu11",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    # Else a call may move into a branch, and sin and cos of one number become one call:
    # there are none in vectors of either.
    "-fno-tree-sink",
    *(f"-fno-builtin-{name}" for name in ("sin", "sinf", "cos", "cosf")),
    "-fwrapv",
    "-fopenmp-simd",
    "-fPIC",
    "-shared",
    "-w",
)
# gcc and clang else use half of an AVX-512 register.
WIDE = ("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()
TIMEOUT = 600  # seconds a translation unit, on a busy machine too
MOST = 32  # kernels in a translation unit, on average


def cache_folder() -> Path:
    """PIROL_CACHE_DIR, else ~/.cache/pirol; made with mode 0700, must be the user's."""
    named = os.environ.get("PIROL_CACHE_DIR")
    folder = Path(named) if named else Path.home() / ".cache" / "pirol"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _ours(folder):
        raise BuildError(
            f"cache folder {folder} belongs to another user; set "
            "PIROL_CACHE_DIR to a folder of your own"
        )
    return folder


def _ours(path: Path) -> bool:
    info = path.lstat()
    foreign_writes = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return info.st_uid == os.getuid() and not foreign_writes


@functools.lru_cache(maxsize=1)
def compiler() -> tuple[str, str]:
    """(path, version text) of the C compiler: $CC, gcc, clang or cc."""
    for name in (os.environ.get("CC"), "gcc", "clang", "cc"):
        path = shutil.which(name) if name else None
        if path is None:
            continue
        shown = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=20, check=False
        )
        if shown.returncode == 0:
            return path, shown.stdout
    raise BuildError("no C compiler was found (looked for $CC, gcc, clang, cc)")


@functools.lru_cache(maxsize=1)
def _machine() -> str:
    """What decides the code made: compiler, flags, headers, CPU features, libm."""
    flags = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        flags = next((x for x in lines if x.startswith(("flags", "Features"))), "")
    headers = [p.read_text() for p in sorted(HEADERS.glob("*.h"))]
    return "\n".join([compiler()[1], *FLAGS, *WIDE, *_vector_math(), flags, *headers])


@functools.lru_cache(maxsize=1)
def _vector_math() -> tuple[str, ...]:
    """Flags for glibc's vector libm where it has all the functions used."""
    probe = '#include "pirol_cpu.h"\n' + (
        "void f(float *restrict x, double *restrict y) {"
        " for (int i = 0; i < 1024; ++i) x[i] = erff(tanhf(expf(logf(x[i]))));"
        " for (int i = 0; i < 1024; ++i) y[i] = erf(tanh(exp(log(y[i])))); }\n"
    )
    flags = ("-DPIROL_LIBMVEC", "-lmvec", "-lm")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "probe.so"
        try:
            _compile(probe, target, flags)
            ctypes.CDLL(str(target))
        except (BuildError, OSError):
            return ("-lm",)
    return flags


def _compile(source: str, target: Path, libraries: Sequence[str]) -> None:
    text = target.with_suffix(".c")
    text.write_text(source)
    defines = [f for f in libraries if f.startswith("-D")]
    rest = [f for f in libraries if not f.startswith("-D")]
    command = [compiler()[0], *FLAGS, *WIDE, *defines, f"-I{HEADERS}", str(text), "-o"]
    try:
        ran = subprocess.run(
            [*command, str(target), *rest],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        late = f"the C compiler took more than {TIMEOUT} s for {text.name}"
        raise BuildError(
            f"{late}; the machine may be busy: call again later"
        ) from error
    if ran.returncode:
        raise BuildError(f"the C compiler refused {text.name}:\n{ran.stderr[:4000]}")


def key_of(source: str) -> str:
    """The key of a text and of what it is built by: compiler, flags, headers, CPU."""
    return short_key(f"{source}\n{_machine()}")


def short_key(text: str) -> str:
    """A name in the cache folder for what this text decides."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def build(sources: Sequence[str]) -> list[Path]:
    """Shared objects for the sources, from the cache or built, in parallel."""
    compiler()
    folder = cache_folder()
    keys = [key_of(s) for s in sources]
    wanted = dict(zip(keys, sources))
    missing = {k: s for k, s in wanted.items() if not valid(folder / f"{k}.so")}
    with ThreadPoolExecutor(max_workers=_cpus()) as pool:
        list(pool.map(lambda some: _build_some(folder, some), _shared_out(missing)))
    return [folder / f"{key}.so" for key in keys]


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def _shared_out(sources: Mapping[str, str]) -> list[dict[str, str]]:
    """The sources in few translation units of like size; no name twice in one."""
    count = max(_cpus(), -(-len(sources) // MOST))
    units: list[dict[str, str]] = [{} for _ in range(count)]
    names: list[set[str]] = [set() for _ in units]
    for key, source in sorted(sources.items(), key=lambda item: -len(item[1])):
        defined = set(_DEFINED.findall(source))
        free = [k for k in range(len(units)) if not names[k] & defined]
        if not free:
            units.append({key: source})
            names.append(defined)
            continue
        best = min(free, key=lambda k: sum(map(len, units[k].values())))
        units[best][key] = source
        names[best] |= defined
    return [unit for unit in units if unit]


def _build_some(folder: Path, sources: Mapping[str, str]) -> None:
    """One shared object; each source's key is a name (a link) of it."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        made = Path(work) / "unit.so"
        _compile("\n".join(sources.values()), made, _vector_math())
        made.chmod(0o700)
        digest = _digest(made)
        for key, source in sources.items():
            place(folder / f"{key}.c", Path(work), source.encode())
            place(folder / f"{key}.sum", Path(work), digest.encode())
            link = Path(work) / f"{key}.so"
            os.link(made, link)
            os.replace(link, folder / link.name)


def place(target: Path, work: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    made = work / target.name
    made.write_bytes(content)
    os.replace(made, target)


def keep(path: Path, content: bytes) -> None:
    """Write a file of the cache folder and its sum."""
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        digest = hashlib.sha256(content).hexdigest()
        place(path, Path(work), content)
        place(path.with_suffix(".sum"), Path(work), digest.encode())


def _digest(path: Path) -> str:
    info = path.stat()
    return _digest_of(path, (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns))


@functools.lru_cache(maxsize=256)
def _digest_of(path: Path, file: tuple[int, ...]) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def valid(path: Path) -> bool:
    """Whether a file of the cache is the user's and fits its sum."""
    total = path.with_suffix(".sum")
    try:
        ours = _ours(path) and _ours(total)
        return ours and total.read_text() == _digest(path)
    except OSError:
        return False


@functools.cache
def load(path: str, name: str) -> int:
    """The address of a kernel in a shared object; the object stays loaded."""
    library = ctypes.CDLL(path)
    pointer = ctypes.cast(getattr(library, name), ctypes.c_void_p)
    _LOADED.append(library)
    return int(pointer.value or 0)


_DEFINED = re.compile(r"^void (\w+)\(", re.MULTILINE)
_LOADED: list[ctypes.CDLL] = []
