"""Where a model lies on this machine, by the name that a person gives."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from engrain.errors import ModelNotFoundError
from engrain.model import catalogue

POCKET = "pocket"
POCKET_FOLDER = Path(__file__).parent / "pocket"
POCKET_VARIABLE = "ENGRAIN_POCKET"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
MODEL_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


@dataclass(frozen=True)
class Located:
    """A folder with a model, and how the model is named from now on.

    ``base_digest`` is set where it is known beforehand what the folder must hold.
    """

    folder: Path
    source: str
    base_digest: str | None = None


def locate(source: str, local_only: bool | None = None) -> Located:
    """The folder of a model: pocket, the catalogue, a GGUF file, a folder, the hub, in this order.

    Raises:
        ModelNotFoundError: there is none; the remedy says how to get it.
        ModelError: a GGUF file can't be converted.
    """
    if source == POCKET:
        return Located(_pocket(), source)
    if source in catalogue.names():
        entry = catalogue.entry(source)
        return Located(catalogue.here(entry), source, entry.base_digest or None)
    path = Path(source).expanduser()
    if path.is_dir():
        return Located(path, source)
    if path.suffix == ".gguf":
        from engrain.model.acquire import converted

        folder, digest = converted(path)
        # A relative path would mean another file as soon as a command runs elsewhere.
        return Located(folder, str(path.resolve()), digest)
    looks_like_path = path.exists() or path.is_absolute() or source.startswith((".", "~"))
    if looks_like_path or not HUB_ID.fullmatch(source):
        raise ModelNotFoundError(
            f"There is no model folder {source!r}.",
            remedy="Give a folder with config.json and safetensors, a GGUF file, a hub id, "
            "'pocket', or a name from `engrain models list`.",
        )
    return Located(_from_hub(source, local_only), source)


def _pocket() -> Path:
    folders = [POCKET_FOLDER]
    if os.environ.get(POCKET_VARIABLE):
        folders.insert(0, Path(os.environ[POCKET_VARIABLE]).expanduser())
    for folder in folders:
        if (folder / "config.json").is_file():
            return folder
    raise ModelNotFoundError(
        f"The pocket model is not in {folders[0]}.",
        remedy=f"Install engrain again, or set {POCKET_VARIABLE} to a folder that holds it.",
    )


def _from_hub(source: str, local_only: bool | None) -> Path:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    error: Exception | None = None
    for offline in (True,) if local_only else (True, False):
        try:
            found = Path(
                snapshot_download(
                    source,
                    allow_patterns=MODEL_FILES,
                    ignore_patterns=["*/*"],
                    local_files_only=offline,
                )
            )
        except Exception as problem:
            # The hub client raises OSError, ValueError and errors of its HTTP library alike.
            error = problem
            continue
        if not offline or _is_complete(found):
            return found
    raise ModelNotFoundError(
        f"There is no model {source!r} on this machine"
        + ("." if local_only else f", and the hub did not give it: {reason(error)}."),
        remedy=f"Check the name, or fetch it first with: hf download {source}",
    ) from error


def _is_complete(folder: Path) -> bool:
    """Whether a cached snapshot has its weights: other programs may have cached parts of it."""
    index = folder / "model.safetensors.index.json"
    try:
        names = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else ()
    except (ValueError, KeyError, OSError):
        return False
    needed = {"config.json", *(names or ("model.safetensors",))}
    return all((folder / name).exists() for name in needed)


def reason(error: BaseException | None) -> str:
    """The first line of an error, short enough to stand inside a sentence."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text[:200].rstrip(". ")
