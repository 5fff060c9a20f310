"""The panel: a fixed, versioned set of questions and texts that guards general ability.

It has one loss (mean nats a token over held-out texts: the most sensitive figure by far) and six
parts that are fractions: capability (choice by log-likelihood), arithmetic, format, reading (facts
told in the same conversation), locality (world facts) and abstention (personal questions about
what was never told), all but the first by free generation. The digest of the panel goes into every
result, and two results are compared only if it is the same.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from engrain.data.lessons import Probe, canonical_digest
from engrain.data.messages import Message
from engrain.data.templates import render
from engrain.errors import ConfigError, UnknownNameError
from engrain.exam.probes import BATCH_SIZE, ExamEngine, passes
from engrain.exam.statistics import Interval, bootstrap_interval, clopper_pearson

ASKED_PARTS = ("arithmetic", "format", "reading", "locality", "abstention")
"""The parts asked in free generation."""

PARTS = ("capability", *ASKED_PARTS)
"""All parts that are a fraction of items passed; the loss stands beside them."""

PANEL_TOKENS = 24
"""Longest answer in free generation."""

LOSS_LENGTH = 256
"""Longest held-out text, in tokens; longer ones are cut."""

FORMAT = 1


@dataclass(frozen=True, slots=True)
class LossText:
    """A held-out text, plain or a conversation that the model's own chat template renders."""

    id: str
    source: str
    text: str = ""
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class ChoiceItem:
    """A choice by log-likelihood: (prompt, continuation) pairs of which one is right.

    ``per_token`` divides by the number of tokens, for continuations of unequal length.
    """

    id: str
    task: str
    options: tuple[tuple[str, str], ...]
    gold: int
    per_token: bool = True


@dataclass(frozen=True, slots=True)
class AskItem:
    """A question in free generation; ``pattern``, if given, must match the whole answer, too.

    Without expected answers the pattern alone decides.
    ``about`` names owner and relation of a personal question, so that a lesson which truly
    answers it can be noticed.
    """

    part: str
    probe: Probe
    pattern: str = ""
    about: tuple[str, str] | None = None

    def passes(self, answer: str) -> bool:
        """Whether an answer passes."""
        if self.pattern:
            if not re.fullmatch(self.pattern, answer.strip(), re.DOTALL):
                return False
            if not self.probe.answers:
                return True
        return passes(self.probe, answer)


@dataclass(frozen=True)
class Panel:
    """A panel: texts, choices, questions, and where they come from."""

    name: str
    version: str
    texts: tuple[LossText, ...]
    choices: tuple[ChoiceItem, ...]
    questions: tuple[AskItem, ...]
    sources: tuple[Mapping[str, str], ...] = ()
    """Name, address, licence and changes of every source."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that is asked, as hex."""
        record = self.to_dict()
        return canonical_digest({k: record[k] for k in ("version", "loss", "choices", "questions")})

    def counts(self) -> dict[str, int]:
        """Items of each part, and texts of the loss."""
        found = {"loss": len(self.texts), "capability": len(self.choices)}
        found |= {part: len(self.part(part)) for part in ASKED_PARTS}
        return {part: count for part, count in found.items() if count}

    def part(self, name: str) -> tuple[AskItem, ...]:
        """The questions of one part."""
        return tuple(item for item in self.questions if item.part == name)

    def touched_by(self, texts: Iterable[str]) -> frozenset[str]:
        """Ids of abstention questions that one of the texts may truly answer.

        A person may tell the very thing that the panel holds for untold; such items say nothing
        about harm and are left out of the comparison.
        """
        told = [text.casefold() for text in texts]
        return frozenset(
            item.probe.id
            for item in self.questions
            if item.part == "abstention" and item.about and _mentioned(item.about, told)
        )

    def smaller(self, limits: Mapping[str, int]) -> Panel:
        """The first items of each part, for quick looks; a panel of its own, with its own digest.

        Choices are taken evenly over the tasks; a part that ``limits`` does not name stays whole.
        """
        unknown = set(limits) - {"loss", *PARTS}
        if unknown:
            raise UnknownNameError("part of a panel", sorted(unknown)[0], ("loss", *PARTS))
        questions: list[AskItem] = []
        for part in ASKED_PARTS:
            questions += self.part(part)[: limits.get(part)]
        by_task: dict[str, list[ChoiceItem]] = {}
        for item in self.choices:
            by_task.setdefault(item.task, []).append(item)
        rounds = [
            items[turn]
            for turn in range(max(map(len, by_task.values()), default=0))
            for items in by_task.values()
            if turn < len(items)
        ]
        return Panel(
            self.name,
            f"{self.version}-smaller",
            self.texts[: limits.get("loss")],
            tuple(rounds[: limits["capability"]]) if "capability" in limits else self.choices,
            tuple(questions),
            self.sources,
        )

    # ------------------------------------------------------------------ files
    def to_dict(self) -> dict[str, Any]:
        """The panel as JSON-ready values."""
        return {
            "format": FORMAT,
            "name": self.name,
            "version": self.version,
            "sources": [dict(source) for source in self.sources],
            "loss": [
                {
                    "id": item.id,
                    "source": item.source,
                    **(
                        {"messages": [message.to_dict() for message in item.messages]}
                        if item.messages
                        else {"text": item.text}
                    ),
                }
                for item in self.texts
            ],
            "choices": [
                {
                    "id": item.id,
                    "task": item.task,
                    "options": [list(option) for option in item.options],
                    "gold": item.gold,
                    "per_token": item.per_token,
                }
                for item in self.choices
            ],
            "questions": [
                {
                    "part": item.part,
                    **item.probe.to_dict(),
                    **({"pattern": item.pattern} if item.pattern else {}),
                    **({"about": list(item.about)} if item.about else {}),
                }
                for item in self.questions
            ],
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Panel:
        """The panel that :meth:`to_dict` gave.

        Raises:
            ConfigError: another file format, or a record that is not a panel.
        """
        if record.get("format") != FORMAT:
            raise ConfigError(
                f"The panel has the file format {record.get('format')!r}, not {FORMAT}.",
                remedy="Install the version of engrain that wrote it.",
            )
        try:
            return cls._read(record)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ConfigError(
                f"The panel can't be read: {error!r}.",
                remedy="Compare it with the panel inside the package.",
            ) from error

    @classmethod
    def _read(cls, record: Mapping[str, Any]) -> Panel:
        return cls(
            str(record["name"]),
            str(record["version"]),
            tuple(
                LossText(item["id"], item["source"], item.get("text", ""), _messages(item))
                for item in record["loss"]
            ),
            tuple(
                ChoiceItem(
                    item["id"],
                    item["task"],
                    tuple((str(prompt), str(rest)) for prompt, rest in item["options"]),
                    int(item["gold"]),
                    bool(item["per_token"]),
                )
                for item in record["choices"]
            ),
            tuple(
                AskItem(
                    item["part"],
                    Probe.from_dict(item),
                    item.get("pattern", ""),
                    (item["about"][0], item["about"][1]) if "about" in item else None,
                )
                for item in record["questions"]
            ),
            tuple(record.get("sources", ())),
        )


def _messages(item: Mapping[str, Any]) -> tuple[Message, ...]:
    return tuple(Message(m["role"], m["content"]) for m in item.get("messages", ()))


def _mentioned(about: tuple[str, str], texts: Sequence[str]) -> bool:
    owner, relation = (part.casefold() for part in about)
    owner = re.sub(r"^(my|our|your) ", "", owner)
    # The first person has no name to look for: the relation alone is enough of a hint.
    words = relation.split() if owner in ("i", "you", "") else [owner, *relation.split()]
    # Verbs are inflected, so the beginnings of words have to do.
    begins = [re.compile(rf"\b{re.escape(word)}") for word in words]
    return any(all(begin.search(text) for begin in begins) for text in texts)


def load_panel(name: str = "default") -> Panel:
    """A panel by name (inside the package) or by path (``.json`` or ``.json.gz``).

    Raises:
        UnknownNameError: no such panel.
        ConfigError: a file that is not a panel.
    """
    if not name.endswith((".json", ".json.gz")):
        return _packaged(name)
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"There is no panel file {name}.", remedy="Check the path.")
    return _parse(name, path.read_bytes())


@lru_cache(maxsize=8)
def _packaged(name: str) -> Panel:
    folder = resources.files("engrain.exam") / "panels"
    known = {
        entry.name.removesuffix(".json.gz"): entry
        for entry in folder.iterdir()
        if entry.name.endswith(".json.gz")
    }
    if name not in known:
        raise UnknownNameError("panel", name, known)
    return _parse(name, known[name].read_bytes())


def _parse(name: str, raw: bytes) -> Panel:
    try:
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        record = json.loads(raw)
    except (OSError, EOFError, ValueError) as error:
        raise ConfigError(
            f"The panel {name} can't be read: {error}.", remedy="Install engrain again."
        ) from error
    return Panel.from_dict(record)


# ---------------------------------------------------------------------------- running it
@dataclass(frozen=True, slots=True)
class PartScore:
    """A part's figure: its value, over how many items or texts, and its interval."""

    value: float
    count: int
    interval: Interval

    def to_dict(self) -> dict[str, Any]:
        """The score as JSON-ready values."""
        return {
            "value": self.value if math.isfinite(self.value) else None,
            "count": self.count,
            "interval": self.interval.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """What one item gave: passed or not, the answer (or the chosen continuation)."""

    part: Literal["capability", "arithmetic", "format", "reading", "locality", "abstention"]
    task: str
    passed: bool
    answer: str


@dataclass(frozen=True, slots=True)
class TextLoss:
    """Mean nats a token of one held-out text, and its number of predicted tokens."""

    nats: float
    tokens: int


@dataclass(frozen=True)
class PanelResult:
    """A panel run on one state of the weights: per item, from which all figures follow."""

    version: str
    digest: str
    texts: Mapping[str, TextLoss]
    items: Mapping[str, ItemOutcome]

    @cached_property
    def loss(self) -> float:
        """Mean nats a token over the held-out texts; NaN without texts."""
        tokens = sum(text.tokens for text in self.texts.values())
        total = math.fsum(text.nats * text.tokens for text in self.texts.values())
        return total / tokens if tokens else math.nan

    @cached_property
    def loss_score(self) -> PartScore:
        """The loss with its number of texts and a bootstrap interval over the texts."""
        texts = list(self.texts.values())
        interval = bootstrap_interval(
            [text.nats for text in texts], weights=[text.tokens for text in texts]
        )
        return PartScore(self.loss, len(texts), interval)

    @cached_property
    def parts(self) -> dict[str, PartScore]:
        """Fraction passed of each part that was run, with exact intervals."""
        return self._scores({part: self.outcomes(part) for part in PARTS})

    @cached_property
    def tasks(self) -> dict[str, PartScore]:
        """Fraction passed of each capability task."""
        groups: dict[str, dict[str, bool]] = {}
        for name, item in self.items.items():
            if item.part == "capability":
                groups.setdefault(item.task, {})[name] = item.passed
        return self._scores(groups)

    @staticmethod
    def _scores(groups: Mapping[str, Mapping[str, bool]]) -> dict[str, PartScore]:
        return {
            name: PartScore(
                sum(found.values()) / len(found),
                len(found),
                clopper_pearson(sum(found.values()), len(found)),
            )
            for name, found in groups.items()
            if found
        }

    def outcomes(self, part: str, *, ignore: Collection[str] = ()) -> dict[str, bool]:
        """Item id to passed, of one part."""
        return {
            name: item.passed
            for name, item in self.items.items()
            if item.part == part and name not in ignore
        }

    def figures(self) -> dict[str, float]:
        """The loss and every part by name, as plain numbers."""
        found = {"loss": self.loss} if self.texts else {}
        return found | {part: score.value for part, score in self.parts.items()}

    def change_percent(self, before: PanelResult) -> float:
        """Panel change: 100 * (loss now / loss before - 1); above 0 is worse."""
        return 100.0 * (self.loss / before.loss - 1.0)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready values; figures are for reading, items are the truth."""
        return {
            "version": self.version,
            "digest": self.digest,
            "loss": self.loss_score.to_dict(),
            "parts": {name: score.to_dict() for name, score in self.parts.items()},
            "tasks": {name: score.to_dict() for name, score in self.tasks.items()},
            "texts": {
                name: [text.nats if math.isfinite(text.nats) else None, text.tokens]
                for name, text in self.texts.items()
            },
            "items": {
                name: [item.part, item.task, item.passed, item.answer]
                for name, item in self.items.items()
            },
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> PanelResult:
        """The result that :meth:`to_dict` gave."""
        return cls(
            record["version"],
            record["digest"],
            {
                name: TextLoss(math.nan if nats is None else float(nats), int(tokens))
                for name, (nats, tokens) in record["texts"].items()
            },
            {
                name: ItemOutcome(part, task, bool(passed), answer)
                for name, (part, task, passed, answer) in record["items"].items()
            },
        )


def run_panel(
    engine: ExamEngine, panel: Panel, *, parts: Collection[str] | None = None
) -> PanelResult:
    """Run a panel, or some of its parts ("loss" is one), on the engine's weights.

    Every part is asked by itself, in a fixed order and fixed batches, so its figures depend on
    weights, panel and machine alone: not on the other parts, nor on any lesson.
    """
    wanted = {"loss", *PARTS} if parts is None else set(parts)
    unknown = wanted - {"loss", *PARTS}
    if unknown:
        raise UnknownNameError("part of a panel", sorted(unknown)[0], ("loss", *PARTS))
    texts = _run_loss(engine, panel.texts) if "loss" in wanted else {}
    items: dict[str, ItemOutcome] = {}
    if "capability" in wanted:
        items |= _run_choices(engine, panel.choices)
    for part in ASKED_PARTS:
        if part in wanted:
            items |= _run_questions(engine, panel.part(part))
    return PanelResult(panel.version, panel.digest, texts, items)


def _run_loss(engine: ExamEngine, texts: Sequence[LossText]) -> dict[str, TextLoss]:
    tokenizer = engine.loaded.tokenizer
    longest = min(LOSS_LENGTH, int(engine.loaded.max_length))
    found = {}
    for item in texts:
        text = item.text
        if item.messages:
            text = render(tokenizer, item.messages, add_generation_prompt=False)
        tokens = min(len(engine.encode_text(text)), longest) - 1
        if tokens > 0:
            # One text a call: no padding, and each text's own loss for the interval.
            nats = engine.loss([text], max_length=longest)
            found[item.id] = TextLoss(float(nats), tokens)
    return found


def _run_choices(engine: ExamEngine, choices: Sequence[ChoiceItem]) -> dict[str, ItemOutcome]:
    if not choices:
        return {}
    pairs = [option for item in choices for option in item.options]
    scored = iter(engine.log_likelihood(pairs))
    found = {}
    for item in choices:
        values = []
        for _ in item.options:
            total, tokens = next(scored)
            values.append(total / max(1, tokens) if item.per_token else total)
        # Ties and NaN go to the first option, the same on every run.
        best = max(range(len(values)), key=lambda i: (values[i], -i))
        right = best == item.gold and not math.isnan(values[best])
        found[item.id] = ItemOutcome("capability", item.task, right, item.options[best][1].strip())
    return found


def _run_questions(engine: ExamEngine, items: Sequence[AskItem]) -> dict[str, ItemOutcome]:
    if not items:
        return {}
    answers = engine.generate(
        [item.probe.messages for item in items],
        max_new_tokens=PANEL_TOKENS,
        temperature=0.0,
        batch_size=BATCH_SIZE,
    )
    return {
        item.probe.id: ItemOutcome(
            item.part,  # type: ignore[arg-type]
            item.part,
            item.passes(answer),
            answer.strip(),
        )
        for item, answer in zip(items, answers, strict=True)
    }
