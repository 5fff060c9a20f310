"""Compile the kernels: ``python src/engrain/model/kernels/build.py``.

Installing engrain runs this by itself where there is a C compiler (``CC``, else cc, gcc or clang).
One library is made for each instruction set; :mod:`engrain.model.kernels` loads the best one that
the processor has. Needs nothing but the standard library, so that it runs before engrain is there.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
FLAGS = (
    *"-std=c11 -O3 -fPIC -shared -fvisibility=hidden -Wall -Wextra".split(),
    # Reductions keep the order in which they are written; nothing here reads errno or traps.
    *"-fno-math-errno -fno-trapping-math".split(),
)
SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "avx512bf16": tuple(
            "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mavx2 -mfma "
            "-mprefer-vector-width=512".split()
        ),
        "avx512": tuple(
            "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma "
            "-mprefer-vector-width=512".split()
        ),
        "avx2": ("-mavx2", "-mfma"),
        "base": (),
    },
}
"""Compiler flags by machine and instruction set, the best first; other machines have ``base``."""


def machine() -> str:
    """The machine's name, as in :data:`SETS`."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def sets() -> dict[str, tuple[str, ...]]:
    """The instruction sets of this machine, the best first."""
    return SETS.get(machine(), {"base": ()})


def sources() -> list[Path]:
    """The C files, in order."""
    return sorted(FOLDER.glob("*.c"))


def digest() -> str:
    """What a library must have been made from, as 16 hex digits."""
    found = hashlib.sha256()
    for path in sorted([*FOLDER.glob("*.c"), *FOLDER.glob("*.h")]):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def library(name: str) -> Path:
    """Where the library of an instruction set lies."""
    return FOLDER / f"kernels-{name}{'.dll' if os.name == 'nt' else '.so'}"


def compilers() -> list[str]:
    """The compilers to try, the configured one first."""
    wanted = [os.environ.get("CC", ""), sysconfig.get_config_var("CC") or "", "cc", "gcc", "clang"]
    names = dict.fromkeys(words.split()[0] for words in wanted if words.split())
    return [path for name in names if (path := shutil.which(name))]


def build() -> tuple[list[str], str]:
    """Compile all sets that the compiler knows; gives their names, or why there are none."""
    if not sources():
        return [], "the sources are not there"
    found = compilers()
    if not found:
        return [], "there is no C compiler (Debian, Ubuntu: apt-get install gcc libc6-dev)"
    made, problem = [], ""
    for name, flags in sets().items():
        for compiler in found:
            # Without OpenMP a kernel runs on one thread; Apple's compiler has none.
            problem = _compile(compiler, name, (*flags, "-fopenmp"))
            problem = problem and _compile(compiler, name, flags)
            if not problem:
                made.append(name)
                break
    return made, "" if made else problem


def _compile(compiler: str, name: str, flags: tuple[str, ...]) -> str:
    target = library(name)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / target.name
        words = [compiler, *FLAGS, *flags, f'-DENGRAIN_SOURCES="{digest()}"', "-o", str(out)]
        words += [*map(str, sources()), "-lm"]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except OSError as error:
            return str(error)
        if done.returncode:
            return (done.stderr or f"{compiler} failed").strip()[-2000:]
        # Replaced whole: a process that has the old library loaded keeps it.
        part = target.with_suffix(".part")
        shutil.copyfile(out, part)
        part.replace(target)
    return ""


if __name__ == "__main__":
    names, why = build()
    print(f"kernels: {', '.join(names)}" if names else f"no kernels: {why}")
    sys.exit(not names)
