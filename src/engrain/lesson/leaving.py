"""What was learned, written for other tools, and asked there what it is asked here.

| format | what is written | what reads it |
|---|---|---|
| ``peft`` | the lessons in force as one LoRA, a folder | PEFT, and what reads its folders |
| ``transformers`` | the merged model, a folder | transformers, vLLM, converters |
| ``gguf`` | the merged model, a file | llama.cpp, Ollama, LM Studio |
| ``gguf-lora`` | the lessons in force as one LoRA, a file | llama.cpp, on the base's own GGUF |

After each the probes of the lessons in force are asked of what was written, by the other tool.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engrain.data.lessons import Probe
from engrain.data.messages import Message
from engrain.errors import EngrainError, ExportError, UnknownNameError, UsageError
from engrain.exam.probes import ANSWER_TOKENS, answer_tokens, ask
from engrain.learn.low_rank import combined, factors, is_low_rank
from engrain.lesson.asked import Asked
from engrain.model import folders, runners
from engrain.model.disk import need_room
from engrain.model.locate import locate, reason

if TYPE_CHECKING:
    from engrain.model.adapter import Adapter
    from engrain.model.loading import LoadedModel

QUANTS = ("f16", "q8_0")
"""Ways in which a GGUF file of a model stores its matrices."""
_ROOM = "Free some space, or give a path on another disk."


@dataclass(frozen=True)
class Answered:
    """How what was written answered the probes, against what is served here.

    ``runner`` is the tool that answered; ``why`` says why none did. ``differing`` are questions
    with the answer here and the answer there.
    """

    runner: str = ""
    why: str = ""
    asked: int = 0
    alike: int = 0
    right_here: int = 0
    right_there: int = 0
    differing: tuple[tuple[str, str, str], ...] = field(default=(), repr=False)

    @property
    def words(self) -> str:
        """It as a sentence."""
        if not self.runner:
            return f"Not asked there: {self.why}."
        right = f"{self.right_here} of them right, here as there"
        if self.right_here != self.right_there:
            right = f"{self.right_here} right here, {self.right_there} there"
        return f"{self.alike} of {self.asked} probes answered alike in {self.runner}; {right}."


@dataclass(frozen=True)
class Exported:
    """What was written, of which state, and how it answered."""

    path: Path
    format: str
    quant: str
    lessons: tuple[str, ...]
    state: str
    nbytes: int
    answered: Answered

    def to_dict(self) -> dict[str, Any]:
        """It as JSON-ready values."""
        answered = {**asdict(self.answered), "words": self.answered.words}
        return {
            "path": str(self.path),
            "format": self.format,
            "quant": self.quant or None,
            "lessons": list(self.lessons),
            "state": self.state,
            "bytes": self.nbytes,
            "answered": answered,
        }


def export(asked: Asked, path: Path, kind: str, quant: str = "") -> Exported:
    """Write what is served in a format of :data:`FORMATS`, and ask it what it is asked here.

    Raises:
        UnknownNameError: no such format or way of storing.
        UsageError: something of that name is there already.
        ExportError: the format can't hold it; nothing was written.
        DiskFullError: there is no room.
    """
    if kind not in FORMATS:
        raise UnknownNameError("format", kind, FORMATS)
    known = QUANTS if kind == "gguf" else ()
    if quant and quant not in known:
        raise UnknownNameError(f"way of storing {kind}", quant, known)
    path = path.expanduser()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"{path} exists already.", remedy="Give another name, or delete it first.")
    asked.served.refresh()
    writing = FORMATS[kind](asked, quant or next(iter(known), ""))
    with _whole(path) as made:
        writing.write(made)
    state = asked.ledger.current()
    size = sum(f.stat().st_size for f in ([path] if path.is_file() else path.iterdir()))
    answered = _answered(asked, writing, path)
    return Exported(path, kind, writing.quant, state.lessons, state.digest, size, answered)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A name beside a path, which takes its place when all is written and is gone otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield made
        if path.is_dir():
            path.rmdir()
        os.replace(made, path)
    finally:
        shutil.rmtree(made, ignore_errors=True)
        made.unlink(missing_ok=True)


# ---------------------------------------------------------------------------- the formats


@dataclass(frozen=True)
class _Format:
    """One way of writing what is served, and the tool that reads it."""

    asked: Asked
    quant: str

    def write(self, path: Path) -> None:
        """Write it to a path where nothing is."""
        raise NotImplementedError

    def runner(self, path: Path) -> tuple[str, _Answering] | str:
        """The tool that reads it, by name, and how to ask it; or why there is none here."""
        raise NotImplementedError

    @property
    def loaded(self) -> LoadedModel:
        """The model that is served."""
        return self.asked.served.loaded

    @property
    def base(self) -> Path:
        """The folder that the base was loaded from."""
        return locate(self.loaded.source, True).folder

    @property
    def name(self) -> str:
        """The base's name, without the place where it lies."""
        return Path(self.loaded.source).stem

    @property
    def about(self) -> dict[str, str]:
        """What a GGUF file says of where it came from."""
        state = self.asked.ledger.current().digest
        base = self.loaded.base_digest
        return {"engrain.version": version("engrain"), "engrain.state": state, "engrain.base": base}

    def adapter(self) -> Adapter:
        """The lessons in force as one low-rank adapter.

        Raises:
            ExportError: there is none, or one is not low-rank.
        """
        state = self.asked.ledger.current()
        adapters = self.asked.served.adapters(state.adapters)
        others = [
            f"{name} ({adapter.architecture})"
            for name, adapter in zip(state.lessons, adapters, strict=True)
            if not is_low_rank(adapter)
        ]
        if others:
            raise ExportError(
                f"{len(others)} of {len(adapters)} lessons in force are no LoRA: "
                f"{', '.join(others)}.",
                remedy="Write the merged model instead: --format transformers, or --format gguf.",
            )
        return combined(adapters)


_Answering = Callable[[runners.Prompts, int], list[str]]


class _Peft(_Format):
    """The lessons in force as one adapter, in PEFT's two files."""

    def write(self, path: Path) -> None:
        adapter = self.adapter()
        need_room(path.parent, adapter.nbytes, _ROOM)
        path.mkdir()
        folders.write_adapter(path, adapter, str(self.base))

    def runner(self, path: Path) -> tuple[str, _Answering]:
        base, loaded = self.base, self.loaded

        def answering(prompts: runners.Prompts, most: int) -> list[str]:
            return runners.peft_answers(
                base, path, prompts, most, dtype=loaded.dtype, stop_ids=loaded.stop_ids
            )

        return "PEFT", answering


class _Transformers(_Format):
    """The merged model, as transformers saves one."""

    def write(self, path: Path) -> None:
        need_room(path.parent, self.loaded.profile.parameters * self.loaded.dtype.itemsize, _ROOM)
        path.mkdir()
        folders.write_model(path, self.loaded)

    def runner(self, path: Path) -> tuple[str, _Answering]:
        return "transformers", partial(runners.transformers_answers, path)


class _Gguf(_Format):
    """The merged model in one file for llama.cpp."""

    def write(self, path: Path) -> None:
        from engrain.model.gguf_write import write_model

        need_room(path.parent, 2 * self.loaded.profile.parameters, _ROOM)
        write_model(
            path,
            self.loaded,
            quant=self.quant,
            name=self.name,
            about=self.about,
            folder=self.base,
        )

    def runner(self, path: Path) -> tuple[str, _Answering] | str:
        if runners.has_llama_cpp():
            length = min(2048, self.loaded.max_length)
            return "llama.cpp", partial(runners.llama_cpp_answers, path, length=length)
        asking = partial(runners.transformers_answers, path.parent, gguf=path.name)
        return "transformers' reader of GGUF (no xllamacpp here)", asking


class _GgufLora(_Format):
    """The lessons in force as one adapter for llama.cpp."""

    def write(self, path: Path) -> None:
        from engrain.model.gguf_write import write_adapter

        adapter = self.adapter()
        need_room(path.parent, adapter.nbytes, _ROOM)
        write_adapter(path, self.loaded, factors(adapter), name=self.name, about=self.about)

    def runner(self, path: Path) -> tuple[str, _Answering] | str:
        if not runners.has_llama_cpp():
            return "llama.cpp is not here (pip install xllamacpp)"
        return "llama.cpp", partial(self._on_base, path)

    def _on_base(self, path: Path, prompts: runners.Prompts, most: int) -> list[str]:
        """What llama.cpp answers with the adapter on the base, written for this alone."""
        from engrain.model.gguf_write import write_model

        length = min(2048, self.loaded.max_length)
        with tempfile.TemporaryDirectory(dir=path.parent) as place, self.asked.served.base():
            base = Path(place) / "base.gguf"
            write_model(base, self.loaded, folder=self.base)
            return runners.llama_cpp_answers(base, prompts, most, adapter=path, length=length)


FORMATS: dict[str, type[_Format]] = {
    "peft": _Peft,
    "transformers": _Transformers,
    "gguf": _Gguf,
    "gguf-lora": _GgufLora,
}


# ---------------------------------------------------------------------------- asking


@dataclass(frozen=True)
class _Outside:
    """Another tool as what an exam asks: it has answers and nothing else."""

    answering: _Answering

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int = ANSWER_TOKENS,
        temperature: float = 0.0,
        batch_size: int = 1,
    ) -> list[str]:
        """Answer each conversation greedily, in order."""
        return self.answering(prompts, max_new_tokens)


def _answered(asked: Asked, writing: _Format, path: Path) -> Answered:
    """Ask the probes of the lessons in force here and there."""
    probes: list[Probe] = [p for found in asked.questions()[0].values() for p in found]
    if not probes:
        return Answered(why="no lesson in force has probes")
    found = writing.runner(path)
    if isinstance(found, str):
        return Answered(why=found)
    runner, answering = found
    # One length for all: the other tool is begun once.
    most = max(answer_tokens(probe.messages[-1].content, *probe.answers) for probe in probes)
    here = ask(asked.served.engine, probes, max_new_tokens=most)
    try:
        there = ask(_Outside(answering), probes, max_new_tokens=most)
    except EngrainError:
        raise
    except Exception as error:
        # A stand-in reads less than what it stands for; each library fails in ways of its own.
        return Answered(why=f"{runner} can't run it ({type(error).__name__}: {reason(error)})")
    pairs = list(zip(probes, here, there, strict=True))
    return Answered(
        runner,
        asked=len(probes),
        alike=sum(one.answer == other.answer for _, one, other in pairs),
        right_here=sum(one.passed for one in here),
        right_there=sum(other.passed for other in there),
        differing=tuple(
            (probe.messages[-1].content, one.answer, other.answer)
            for probe, one, other in pairs
            if one.answer != other.answer
        ),
    )
