"""Who asks the questions of a lesson, by name: the setting ``study.writer``.

``self`` is the model that learns. A model of the catalogue, a folder or a GGUF file is loaded for
self-study alone and freed before anything is trained; it sees worked examples, or has a lesson zero
of its own. An address is an endpoint of this machine. The model that learns judges in any case.

``auto`` is self, unless another would clearly do better and is at hand. The catalogue's writer is
taken if the model that learns has no lesson zero in force, or is smaller than the everyday model;
if the writer is the larger of the two; if it is on this machine already; and if both fit into the
memory that is free. Nothing is ever downloaded for a lesson.
"""

from __future__ import annotations

import difflib
import gc
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

from engrain.config import ModelConfig
from engrain.errors import ModelError, ModelNotFoundError
from engrain.exam.report import size
from engrain.learn.fold import fold_into
from engrain.lesson import fit, zero
from engrain.lesson.folder import POCKET
from engrain.model import catalogue
from engrain.model.adapter import Adapter
from engrain.study.reader import WINDOW_TOKENS, Reader, Room
from engrain.study.writer import EndpointWriter, ModelWriter, Writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engrain.data.messages import Message
    from engrain.lesson.served import Served
    from engrain.model.engine import Engine
    from engrain.model.loading import LoadedModel, Outline

SELF, AUTO = "self", "auto"


@dataclass(frozen=True)
class Chosen:
    """Who writes and why; of a model that is loaded for it also what it is."""

    name: str = SELF
    why: str = "it is set so"
    outline: Outline | None = field(default=None, repr=False)
    model: ModelConfig = field(default_factory=ModelConfig, repr=False)

    @property
    def is_self(self) -> bool:
        """Whether the model that learns writes."""
        return self.name == SELF

    def opened(self) -> AbstractContextManager[Writer | None]:
        """The writer for as long as self-study takes; None for the model that learns."""
        if self.is_self:
            return nullcontext()
        if _is_address(self.name):
            return nullcontext(EndpointWriter(self.name))
        return Guest(self.name, self.model)


class Guest:
    """Another model as writer: in memory inside of a ``with``, and nowhere else."""

    def __init__(self, source: str, model: ModelConfig) -> None:
        self._source, self._model = source, model
        self._writer: ModelWriter | None = None

    def __enter__(self) -> Self:
        from engrain.model.engine import Engine

        loaded = _load(self._source, self._model)
        taught = with_manners(loaded)
        self._writer = ModelWriter(Reader(Engine(loaded), ()), taught=bool(taught))
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        self._writer = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def engine(self) -> Engine:
        """The engine of the model."""
        return cast("Engine", self._here.reader.engine)

    @property
    def room(self) -> Room:
        """What the model can take beside its worked examples."""
        return self._here.room

    def write(
        self,
        view: Sequence[Message],
        asked: Sequence[str],
        *,
        temperature: float,
        turn: int,
        answers: Sequence[str] | None = None,
    ) -> list[str]:
        """Answers of the model."""
        return self._here.write(view, asked, temperature=temperature, turn=turn, answers=answers)

    @property
    def _here(self) -> ModelWriter:
        assert self._writer is not None, "a guest writes inside of its with"
        return self._writer


def choose(wanted: str, served: Served, model: ModelConfig) -> Chosen:
    """Who writes for a home, by its setting.

    Raises:
        ConfigError: an address that is not on this machine.
        ModelNotFoundError: no such model is on this machine; the remedy says how to get it.
        ModelError: it can't be used.
    """
    if served.loaded.source == POCKET:
        return Chosen(why="the pocket model studies in a way of its own")
    if _is_address(wanted):
        EndpointWriter(wanted)
        return Chosen(wanted)
    if wanted in (SELF, served.loaded.source):
        return Chosen()
    if wanted == AUTO:
        return _auto(served, model)
    folder = Path(wanted).expanduser()
    if wanted not in catalogue.names() and folder.is_dir():
        # A resumed job may run elsewhere, where a relative path means another folder.
        wanted = str(folder.resolve())
    found = _outline(wanted, model)
    return Chosen(found.source, outline=found, model=model)


def kept(name: str, model: ModelConfig) -> Chosen:
    """The writer with which a job began."""
    return Chosen(name, "the job began with it", model=model)


def with_manners(loaded: LoadedModel) -> str:
    """Put lesson zero into a model that is in no home; gives its adapter's digest, "" for none."""
    import hashlib

    lesson = zero.shipped(loaded.base_digest)
    if lesson is None:
        return ""
    fold_into(loaded, Adapter.from_bytes(lesson.adapter))
    return hashlib.sha256(lesson.adapter).hexdigest()


def _auto(served: Served, model: ModelConfig) -> Chosen:
    """The catalogue's writer where it is needed, at hand, and fits; see the module."""
    loaded, other = served.loaded, catalogue.by_role("better, writer")
    own = loaded.profile.parameters
    small = own < catalogue.everyday().parameters
    if served.mannered and not small:
        return Chosen(why="lesson zero taught it to ask")
    if own >= other.parameters:
        return Chosen(why=f"it is no smaller than {other.name}")
    if not catalogue.is_here(other):
        return Chosen(
            why=f"{other.name}, which would ask better, is not here (engrain models get "
            f"{other.name})"
        )
    try:
        found = _outline(other.name, model)
    except ModelError as error:
        return Chosen(why=f"{other.name} can't be used: {error.message}")
    needed = sum(fit.study_bytes(loaded, WINDOW_TOKENS, taught=True, writer=found).values())
    free = fit.free_bytes() + fit.held_bytes()
    if needed > free:
        return Chosen(
            why=f"{other.name} does not fit beside it: {size(needed)} needed, {size(free)} free"
        )
    need = "the model is small" if small else "the model has no lesson zero in force"
    return Chosen(found.source, f"{need}, and both fit", found, model)


def _outline(source: str, model: ModelConfig) -> Outline:
    from engrain.model.loading import outline

    try:
        found = outline(source, dtype=model.dtype, device=model.device)
    except ModelNotFoundError as error:
        near = difflib.get_close_matches(source, catalogue.names(), n=1, cutoff=0.6)
        remedy = "Set it to auto, self, a name from `engrain models list`, a folder, a GGUF file, "
        remedy += "or an address of this machine."
        if near and near[0] == source:
            remedy = f"Get it with: engrain models get {source}, or set study.writer to self."
        elif near:
            remedy = f"Did you mean {near[0]!r}? {remedy}"
        raise ModelNotFoundError(
            f"study.writer is {source!r}, and there is no such model on this machine.",
            remedy=remedy,
        ) from error
    # Too short a context is told now, before a lesson begins.
    Room.of(found)
    return found


def _load(source: str, model: ModelConfig) -> LoadedModel:
    from engrain.model.loading import load_model

    return load_model(source, dtype=model.dtype, local_only=True, device=model.device)


def _is_address(name: str) -> bool:
    return "://" in name
