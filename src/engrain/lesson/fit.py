"""Whether a lesson fits into memory: its peak in each phase, and what is free.

Self-study, exams and training hold different things beside the weights: caches, a second and a
third copy of the weights, gradients and activations. The peak of a lesson is that of its largest
phase. What training takes is told by :mod:`engrain.learn.footprint`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engrain.data.general import anchors
from engrain.data.lessons import Lesson, TrainingText, chat
from engrain.data.messages import Conversation, Message
from engrain.errors import DoesNotFitError
from engrain.exam.panel import LOSS_LENGTH, PANEL_TOKENS
from engrain.exam.probes import BATCH_SIZE
from engrain.exam.report import size
from engrain.learn.footprint import cache_bytes, layer_bytes, training_bytes
from engrain.learn.technique import Setting
from engrain.model.rows import MAX_BATCH_TOKENS
from engrain.study.reader import LIST_TOKENS, WINDOW_TOKENS, Room
from engrain.study.requests import WORKED

if TYPE_CHECKING:
    from engrain.exam.panel import Panel
    from engrain.learn.recipe import Recipe
    from engrain.model.loading import LoadedModel, Outline

STOCK = 12
"""Texts of each kind that stand for a lesson which is not studied yet."""
CHOICE_TOKENS = 24
"""Tokens of a choice of the panel whose logits are held."""

PHASES = {
    "self_study": "self-study",
    "training": "training",
    "exams": "the exams",
}
"""The phases in words."""

_REMEDIES = {
    "activations": "take a smaller batch (--set batch_size=2)",
    "logits": "take a smaller batch (--set batch_size=2)",
    "cache": "learn a shorter conversation",
    "copies": "take a smaller model, or set model.dtype to bfloat16",
    "weights": "take a smaller model, or set model.dtype to bfloat16",
    "optimizer": "take a recipe that trains less, such as --recipe default",
    "gradients": "take a recipe that trains less, such as --recipe default",
    "adapter": "take a recipe that trains less, such as --recipe default",
    "anchors": "keep fewer anchors (--set regularization.kl_anchor.texts=24)",
    "program": "take a smaller model",
    "writer": "let the model itself write (--set study.writer=self)",
}


@dataclass(frozen=True)
class Memory:
    """Bytes of a lesson by phase and part, and what this process may hold in all."""

    phases: Mapping[str, Mapping[str, int]]
    free_bytes: int

    @property
    def phase(self) -> str:
        """The phase that takes the most."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def peak_bytes(self) -> int:
        """The most that the process will hold at once."""
        return sum(self.phases[self.phase].values())

    @property
    def fits(self) -> bool:
        """Whether that is free, what the process holds already included."""
        return self.peak_bytes <= self.free_bytes

    def check(self) -> None:
        """Refuse what can't fit.

        Raises:
            DoesNotFitError: more is needed than is free; it says what takes the most.
        """
        if self.fits:
            return
        parts = {k: v for k, v in self.phases[self.phase].items() if k != "program"}
        largest = max(parts, key=lambda name: parts[name])
        raise DoesNotFitError(
            f"The lesson would take {size(self.peak_bytes)} and {size(self.free_bytes)} are free: "
            f"{PHASES[self.phase]} needs the most, {size(parts[largest])} of it for the {largest}.",
            remedy=f"Close other programs, or {_REMEDIES[largest]}; --force tries it all the same.",
            peak_bytes=self.peak_bytes,
            free_bytes=self.free_bytes,
        )

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON-ready values."""
        return {
            "peak_bytes": self.peak_bytes,
            "free_bytes": self.free_bytes,
            "fits": self.fits,
            "phase": self.phase,
            "phases": {name: dict(parts) for name, parts in self.phases.items()},
        }


def lesson_memory(
    loaded: LoadedModel,
    recipe: Recipe,
    panel: Panel,
    *,
    conversations: Sequence[Conversation] = (),
    examples: Sequence[TrainingText] = (),
    earlier: Sequence[Lesson] = (),
    writer: Outline | None = None,
) -> Memory:
    """The memory of a lesson, before it is studied.

    ``writer`` is a second model, which is in memory during self-study alone. Only a few tokens are
    run through the model.
    """
    held, own = held_bytes(), _own(loaded)
    vocabulary, layer = loaded.profile.vocab_size, int(layer_bytes(loaded))
    whole = 4 * loaded.profile.parameters
    asked = {
        "cache": BATCH_SIZE * (_longest(loaded, panel) + PANEL_TOKENS) * cache_bytes(loaded),
        "activations": BATCH_SIZE * _longest(loaded, panel) * layer,
        "logits": vocabulary
        * max(12 * min(LOSS_LENGTH, loaded.max_length), 8 * BATCH_SIZE * CHOICE_TOKENS),
    }
    lesson = expected_lesson(conversations, examples, recipe.batch_size)
    setting = Setting(loaded, lesson, earlier, anchors(), batch_size=recipe.batch_size)
    trained = training_bytes(recipe, setting)
    phases: dict[str, Mapping[str, int]] = {
        "training": {**own, **trained, "weights": own["weights"] + trained["weights"]},
        # The candidate's weights are folded in fp32. As they go in, those in force are kept aside.
        "exams": {**own, **asked, "copies": whole},
    }
    if conversations:
        view = _tokens(loaded, conversations)
        phases["self_study"] = study_bytes(loaded, view, taught=bool(earlier), writer=writer)
    return Memory(phases, free_bytes() + held)


def study_bytes(
    loaded: LoadedModel, tokens: int, *, taught: bool = False, writer: Outline | None = None
) -> dict[str, int]:
    """Bytes of self-study by part, for a conversation of so many tokens.

    Reader and writer take turns: their weights add up, and of the rest the larger counts. What a
    layer of the writer keeps of a token is taken to grow with its width.
    """
    layer, view = int(layer_bytes(loaded)), min(WINDOW_TOKENS, tokens)
    parts = _asking(loaded, view, layer)
    weights = 0
    if writer is not None:
        seen = view + sum(map(Room(writer.tokenizer, 0).size, WORKED))
        wider = layer * writer.profile.hidden_size // loaded.profile.hidden_size
        other = _asking(writer, seen, wider)
        parts = {name: max(count, other[name]) for name, count in parts.items()}
        weights = writer.nbytes
    copies = _live(loaded) if taught else 0
    return {**_own(loaded), **parts, "copies": copies, "writer": weights}


def _asking(model: LoadedModel | Outline, tokens: int, layer: int) -> dict[str, int]:
    """Bytes of asking a model about so many tokens of conversation, its weights apart."""
    view = min(model.max_length, tokens)
    rows = max(1, min(BATCH_SIZE, MAX_BATCH_TOKENS // (view + LIST_TOKENS)))
    return {
        "cache": rows * (view + LIST_TOKENS) * cache_bytes(model),
        "activations": max(view, rows * STOCK) * layer,
        "logits": 8 * rows * model.profile.vocab_size,
    }


def _own(loaded: LoadedModel) -> dict[str, int]:
    """What is held in every phase."""
    return {"program": max(0, held_bytes() - loaded.nbytes), "weights": loaded.nbytes}


def _live(loaded: LoadedModel) -> int:
    """Bytes of the live weights."""
    return sum(tensor.numel() * tensor.element_size() for tensor in loaded.weights().values())


def expected_lesson(
    conversations: Sequence[Conversation], examples: Sequence[TrainingText], batch: int
) -> Lesson:
    """A lesson like the one that self-study will make; explicit examples stand for themselves."""
    texts = list(examples)
    many = max(STOCK, batch)
    if conversations or not texts:
        texts += stock_texts(many)
        longest = sorted(conversations, key=lambda found: -len(str(found.messages)))
        for i, found in enumerate(longest[:STOCK]):
            view = [m for m in found.messages if m.role != "system"]
            question = (Message("user", "What is its name?"), Message("assistant", "Corvath."))
            texts.append(TrainingText((*view, *question), "reading", f"boat {i}: {i}"))
    return Lesson("expected", "", tuple(texts))


def stock_texts(count: int) -> list[TrainingText]:
    """Facts and contrast of the usual length: what self-study makes of a short conversation."""
    texts = []
    for i in range(count):
        more = " that we talked about last week" if i % 3 == 0 else ""
        asked = f"What did I say my sister's boat number {i}{more} is called?"
        told = f"Your sister's boat number {i} is called Corvath."
        texts.append(TrainingText(chat(asked, told), "fact", f"boat {i}: {i}"))
        asked = asked.replace("sister", "neighbour")
        texts.append(TrainingText(chat(asked, "I don't know that."), "contrast", f"boat {i}: {i}"))
    return texts


def held_bytes() -> int:
    """What this process holds of the machine's memory now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def free_bytes() -> int:
    """What this process may still take: free on the machine, and within its container's limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii").strip()
        if limit != "max":
            free = min(free, max(0, int(limit) - int(used)))
    return free


def _tokens(loaded: LoadedModel, conversations: Sequence[Conversation]) -> int:
    """Tokens of the longest conversation."""
    texts = ["\n".join(m.content for m in found.messages) for found in conversations]
    return len(loaded.tokenizer(max(texts, key=len, default=""))["input_ids"])


def _longest(loaded: LoadedModel, panel: Panel) -> int:
    """Tokens of the panel's longest question."""
    texts = ["\n".join(m.content for m in item.probe.messages) for item in panel.questions]
    return len(loaded.tokenizer(max(texts, key=len, default=""))["input_ids"])
