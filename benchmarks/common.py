"""What every benchmark needs: where it ran, how its result is kept, and a table to look at."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from engrain.model.threads import set_threads

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("engrain", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")
TINY = "tiny"
"""The model of a smoke test: random weights, made on the spot; it learns, but can't read."""


def options(description: str | None, name: str, *, seed: int = 0) -> argparse.ArgumentParser:
    """A parser with what all benchmarks take: model, seed, threads and the JSON file."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--model", default="pocket", help=f"'pocket', '{TINY}', a folder or hub id")
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--threads", type=int, default=0, help="0: one a physical core")
    parser.add_argument("--json", type=Path, default=RESULTS / f"{name}.json", metavar="FILE")
    return parser


def begin(args: argparse.Namespace, folder: Path) -> str:
    """Set the threads and give the model's source; a tiny model is written into the folder."""
    set_threads(args.threads or None)
    if args.model != TINY:
        return str(args.model)
    from engrain.model.testing import save_tiny, tiny_model

    target = folder / "tiny-model"
    if not (target / "config.json").exists():
        # Longer than the conversations of six facts, at one token a byte.
        save_tiny(tiny_model("llama", hidden=32, max_length=2048), target)
    return str(target)


def about(args: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """Everything that a figure depends on: machine, versions, commit, seed, arguments."""
    from engrain.model.threads import machine_fingerprint

    given = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    return {
        "benchmark": Path(sys.argv[0]).stem,
        "arguments": given,
        "seed": args.seed,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "machine": machine_fingerprint(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
        "memory_bytes": _memory(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        **more,
    }


def commit() -> str:
    """The commit of the working tree, with a plus if it has changes; empty outside of git."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "HEAD")
    return head + ("+" if head and git("status", "--porcelain", "src", "benchmarks") else "")


def write_json(path: Path, record: Mapping[str, Any]) -> Path:
    """Write a result whole or not at all; a relative path with no folder goes to ``results/``."""
    if path.parent == Path("."):
        path = RESULTS / path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".part")
    temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def read_json(path: Path) -> dict[str, Any]:
    """An earlier result, or nothing."""
    if path.parent == Path("."):
        path = RESULTS / path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table with aligned columns: text to the left, numbers to the right."""
    cells = [[_shown(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(head), *cells]) for i in range(len(head))]
    left = [all(isinstance(row[i], str) for row in rows) for i in range(len(head))]

    def line(words: Sequence[str]) -> str:
        pairs = zip(words, widths, left, strict=True)
        return "  ".join(w.ljust(n) if is_text else w.rjust(n) for w, n, is_text in pairs).rstrip()

    print(f"\n{title}")
    print(line(head))
    print("  ".join("-" * width for width in widths))
    for row in cells:
        print(line(row))


def _shown(cell: object) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "NO"
    if isinstance(cell, float):
        return f"{cell:.3g}" if abs(cell) < 1000 else f"{cell:,.0f}"
    return "-" if cell is None else str(cell)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
