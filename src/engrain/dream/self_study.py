"""Self-study: from a conversation to training texts and probes, without any larger model.

With the conversation in view the model writes questions that its user could ask later and answers
them. What passes the checks (:mod:`engrain.dream.checks`) is grouped by fact; each fact gets more
wordings, of which one or two are held out as probes. The target is the answer given *with* the
conversation, the input comes *without* it: prompt distillation, where teacher and student are the
same model.

The conversation is expected to be curated (:mod:`engrain.study.curation`).
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from engrain.data.lessons import Probe, ProbeKind, TrainingText, chat
from engrain.data.messages import Conversation, Message
from engrain.dream.asking import ask_again, ask_for_deeds, ask_for_questions
from engrain.dream.checks import Checked, Checker
from engrain.dream.clauses import begins_with_deed
from engrain.dream.contrast import Wording, make_contrast
from engrain.dream.earlier import EarlierFacts
from engrain.dream.gathered import (
    MORE_THAN_WANTED,
    GatheredFact,
    add_wordings,
    choose,
    keep_on_topic,
)
from engrain.dream.grounding import Sentence, UserWords
from engrain.dream.reader import Reader, StudyEngine, in_context
from engrain.errors import UnknownNameError
from engrain.study.wording import find_run, jaccard

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, its number from 1, and the number of stages."""

STAGES = ("questions", "answers", "wordings", "contrast", "done")
SAME_THING = 0.7
"""Shared words from which two values are taken for values of the same thing."""

SUPERSEDED = "the user said something newer about the same thing"


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is asked of the model for one lesson."""

    lists: int
    """Sampled lists of questions a window, beside the greedy one."""
    about: int
    """Sampled questions about each sentence of the user, beside the greedy one."""
    turns: int
    """Continued user messages an opener, where questions are missing after the first round."""
    rephrasings: float
    """Rewordings asked for each wording that a fact still lacks."""
    read: int
    """Wordings of a fact that are answered with the conversation in view."""
    wordings: int
    """Training wordings wanted for a fact."""
    contrast: float
    """Contrast texts wanted for a training wording."""


EFFORTS = {
    "low": Effort(lists=1, about=0, turns=1, rephrasings=1.0, read=6, wordings=16, contrast=1.0),
    "normal": Effort(lists=3, about=1, turns=2, rephrasings=1.0, read=8, wordings=40, contrast=1.5),
    "high": Effort(lists=8, about=3, turns=6, rephrasings=4.0, read=16, wordings=60, contrast=2.0),
}


@dataclass(frozen=True, slots=True)
class StudiedFact:
    """One fact of a lesson: what it is about, its value, and what was made of it."""

    group: str
    about: frozenset[str]
    value: str
    said: str
    questions: tuple[str, ...]
    held_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fact as JSON-ready values."""
        return {
            "group": self.group,
            "value": self.value,
            "said": self.said,
            "questions": list(self.questions),
            "held_out": list(self.held_out),
        }


@dataclass(frozen=True)
class Study:
    """What self-study made of a conversation.

    ``coverage`` is the share of the user's telling sentences that a fact of the lesson was found
    in; ``missed`` are the others. ``dropped`` are refused questions, each with its reason in words.
    """

    texts: tuple[TrainingText, ...] = ()
    probes: tuple[Probe, ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    coverage: float = 0.0
    missed: tuple[str, ...] = ()
    facts: tuple[StudiedFact, ...] = ()
    asked: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The study as JSON-ready values."""
        return {
            "texts": [text.to_dict() for text in self.texts],
            "probes": [probe.to_dict() for probe in self.probes],
            "dropped": [{"question": q, "reason": r} for q, r in self.dropped],
            "seconds": round(self.seconds, 3),
            "coverage": round(self.coverage, 4),
            "missed": list(self.missed),
            "facts": [fact.to_dict() for fact in self.facts],
            "asked": self.asked,
        }


def study(
    engine: StudyEngine,
    conversation: Conversation,
    *,
    seed: int = 0,
    effort: str = "normal",
    hold_out: float = 0.25,
    max_facts: int = 64,
    earlier: EarlierFacts | None = None,
    on_progress: Progress | None = None,
) -> Study:
    """Make training texts and probes from a curated conversation.

    ``earlier`` is what the weights in force were taught before: no contrast contradicts it.

    Raises:
        UnknownNameError: there is no such effort.
        UsageError: the model's context is too short for any conversation.
    """
    if effort not in EFFORTS:
        raise UnknownNameError("effort", effort, EFFORTS)
    plan = EFFORTS[effort]
    before = earlier or EarlierFacts.of()
    started = time.perf_counter()
    reader = Reader.of(engine, conversation, seed)
    checker = Checker.of(reader, conversation)
    said = checker.said
    rng = random.Random(f"study:{seed}")

    def report(stage: int) -> None:
        if on_progress:
            on_progress(STAGES[stage], stage + 1, len(STAGES))

    report(0)
    candidates = ask_for_questions(reader, said, lists=plan.lists, about=plan.about)
    report(1)
    passed = checker.check(candidates)
    missed = _missed(said, passed)
    passed += checker.check(ask_again(reader, missed, turns=plan.turns, about=plan.about))
    passed += checker.check(ask_for_deeds(reader, _half_asked(passed)))
    passed += checker.vote([*_missed(said, passed), *_half_asked(passed)])
    facts = _group(passed)
    facts = _resolve(facts, said, checker)
    if len(facts) > max_facts:
        for fact in facts[max_facts:]:
            for pair in fact.pairs:
                checker.refuse(pair.question, MORE_THAN_WANTED)
        facts = facts[:max_facts]
    report(2)
    add_wordings(reader, checker, facts, plan.rephrasings, plan.read)
    for fact in facts:
        keep_on_topic(fact, checker)
    asked: set[str] = set()
    chosen = [choose(fact, plan.wordings, hold_out, rng, checker, asked) for fact in facts]
    report(3)
    study_facts, texts, probes = _write(conversation, reader, facts, chosen, before)
    texts += _contrast_texts(
        reader, checker, facts, chosen, study_facts, before, plan.contrast, seed
    )
    report(4)
    used = {
        pair.mention.sentence.place
        for fact, (trained, _) in zip(facts, chosen, strict=True)
        for pair in (fact.pairs if trained else ())
    }
    telling = said.statements()
    untold = tuple(sentence.text for sentence in telling if sentence.place not in used)
    return Study(
        texts=tuple(texts),
        probes=tuple(probes),
        dropped=tuple(checker.refused.items()),
        seconds=time.perf_counter() - started,
        coverage=1 - len(untold) / len(telling) if telling else 0.0,
        missed=untold,
        facts=tuple(study_facts),
        asked=reader.asked,
    )


# ---------------------------------------------------------------------------- facts
def _missed(said: UserWords, passed: Iterable[Checked]) -> list[Sentence]:
    """The sentences that may tell something and that no accepted question came from."""
    found = {pair.mention.sentence.place for pair in passed}
    return [sentence for sentence in said.statements() if sentence.place not in found]


def _half_asked(passed: Iterable[Checked]) -> list[Sentence]:
    """The sentences of which a part of the deed was taken for the value ("fond of Gorla")."""
    half: dict[int, Sentence] = {}
    whole: set[int] = set()
    for mention in (pair.mention for pair in passed):
        if begins_with_deed(mention.surface):
            half.setdefault(mention.sentence.place, mention.sentence)
        else:
            whole.add(mention.sentence.place)
    return [sentence for place, sentence in half.items() if place not in whole]


def _group(pairs: Iterable[Checked]) -> list[GatheredFact]:
    """Pairs with the same value, said in the same sentence or of the same thing, are one fact."""
    facts: list[GatheredFact] = []
    for pair in pairs:
        place = pair.mention.sentence.place
        for fact in facts:
            same_value = find_run(fact.key, pair.key) or find_run(pair.key, fact.key)
            if not same_value:
                continue
            apart = jaccard(
                pair.mention.sentence.topic - set(pair.key),
                fact.pairs[0].mention.sentence.topic - set(fact.key),
            )
            if place == fact.place or apart >= SAME_THING:
                # The shortest form of a value is held by every answer that holds a longer one.
                fact.key = min(fact.key, pair.key, key=len)
                fact.pairs.append(pair)
                break
        else:
            facts.append(GatheredFact(pair.key, place, [pair]))
    return sorted(facts, key=lambda fact: fact.place)


def _resolve(facts: list[GatheredFact], said: UserWords, checker: Checker) -> list[GatheredFact]:
    """Of several values of the same thing the newest stays."""
    dropped: set[int] = set()
    for i, one in enumerate(facts):
        for j in range(i + 1, len(facts)):
            other = facts[j]
            if one.key == other.key or jaccard(one.about, other.about) < SAME_THING:
                continue
            older, newer = (i, j) if said.recency(one.key) <= said.recency(other.key) else (j, i)
            dropped.add(older)
            facts[newer].old = facts[older].key
            for pair in facts[older].pairs:
                checker.refuse(pair.question, SUPERSEDED)
    return [fact for i, fact in enumerate(facts) if i not in dropped]


def _write(
    conversation: Conversation,
    reader: Reader,
    facts: Sequence[GatheredFact],
    chosen: Sequence[tuple[list[Checked], list[Checked]]],
    before: EarlierFacts,
) -> tuple[list[StudiedFact], list[TrainingText], list[Probe]]:
    """Texts and probes of the chosen wordings, and one reading text a fact."""
    study_facts: list[StudiedFact] = []
    texts: list[TrainingText] = []
    probes: list[Probe] = []
    digest = conversation.digest
    for fact, (trained, held) in zip(facts, chosen, strict=True):
        if not trained:
            continue
        group = _group_name(fact, {known.group for known in study_facts})
        target = fact.target
        texts += [TrainingText(chat(pair.question, target), "fact", group) for pair in trained]
        first = trained[0]
        context = in_context(reader.windows[first.window], first.question)
        texts.append(TrainingText((*context, Message("assistant", target)), "reading", group))
        kinds: Sequence[ProbeKind] = ("recall", "paraphrase")
        old = before.old_values([pair.question for pair in fact.pairs], fact.surface)
        if fact.old:
            old.append(" ".join(fact.old))
        not_answers = tuple(dict.fromkeys(old))
        for kind, pair in zip(kinds, held, strict=False):
            name = hashlib.sha256(f"{digest}\n{pair.question}\n{fact.key}".encode()).hexdigest()
            probes.append(
                Probe(
                    f"{kind}-{name[:12]}",
                    kind,
                    chat(pair.question),
                    (fact.surface,),
                    not_answers,
                )
            )
        study_facts.append(
            StudiedFact(
                group,
                fact.about,
                fact.surface,
                first.mention.sentence.text,
                tuple(pair.question for pair in trained),
                tuple(pair.question for pair in held),
            )
        )
    return study_facts, texts, probes


def _group_name(fact: GatheredFact, taken: set[str]) -> str:
    """A name that a person can read: "my aunt's cat: Gorla"."""
    parts = fact.parts
    about = parts.name or " ".join(sorted(fact.about)[:5])
    name = base = f"{about}: {fact.surface}"
    number = 2
    while name in taken:
        name, number = f"{base} ({number})", number + 1
    return name


def _contrast_texts(
    reader: Reader,
    checker: Checker,
    facts: Sequence[GatheredFact],
    chosen: Sequence[tuple[list[Checked], list[Checked]]],
    study_facts: Sequence[StudiedFact],
    before: EarlierFacts,
    ratio: float,
    seed: int,
) -> list[TrainingText]:
    """Neighbouring questions in the wordings of the lesson, answered as before it."""
    groups = iter(fact.group for fact in study_facts)
    wordings: list[Wording] = []
    for fact, (trained, _) in zip(facts, chosen, strict=True):
        if trained:
            group, parts = next(groups), fact.parts
            wordings += [Wording(pair.question, group, parts, fact.key) for pair in trained]
    kept = [pair.question for fact in facts for pair in fact.pairs]
    found = make_contrast(
        reader, wordings, kept, checker.said, checker.lexicon, before, ratio=ratio, seed=seed
    )
    return [TrainingText(chat(one.question, one.answer), "contrast", one.group) for one in found]
