"""Self-study: from a conversation to training texts and probes, without any larger model.

With the conversation in view the model writes questions that its user could ask later and answers
them. What passes the checks (:mod:`engrain.dream.checks`) is grouped by fact; each fact gets more
wordings, of which one or two are held out as probes. The target is the answer given *with* the
conversation, the input comes *without* it: prompt distillation, where teacher and student are the
same model.

The conversation is expected to be curated (:mod:`engrain.dream.curation`).
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from engrain.data.facts import REPHRASE_INSTRUCTION
from engrain.data.lessons import Probe, ProbeKind, TrainingText, chat
from engrain.data.messages import Conversation, Message
from engrain.dream.asking import ask_again, ask_for_questions
from engrain.dream.checks import Candidate, Checked, Checker
from engrain.dream.contrast import Wording, make_contrast
from engrain.dream.earlier import EarlierFacts
from engrain.dream.frames import NEUTRAL_FRAMES, Parts, fill, frame_of, parts_of_fact
from engrain.dream.grounding import Sentence, UserWords
from engrain.dream.reader import QUESTION_TOKENS, Reader, StudyEngine, in_context
from engrain.dream.wording import content, find_run, jaccard, owners, similarity, stem, tidy, topic
from engrain.errors import UnknownNameError

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, its number from 1, and the number of stages."""

STAGES = ("questions", "answers", "wordings", "contrast", "done")
NEAR_DUPLICATE = 0.92
"""Similarity from which two wordings of a fact count as one."""
SAME_THING = 0.7
"""Shared words from which two values are taken for values of the same thing."""

SUPERSEDED = "the user said something newer about the same thing"
TOO_VAGUE = "it does not say what it asks for"
NEAR_ANOTHER = "nearly the same wording as another"
MORE_THAN_WANTED = "more wordings or facts than wanted"
FEW_WORDINGS = "only one wording was found: nothing is left to train on beside the probe"


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
    wordings: int
    """Training wordings wanted for a fact."""
    contrast: float
    """Contrast texts wanted for a training wording."""


NEUTRAL = "neutral"
"""The origin of wordings from frames which are not the model's own."""
NEUTRAL_FRAMES_A_FACT = 12
"""Such wordings proposed for every fact."""
CLEAN_WORDINGS = 4
"""So many of them from which on a fact's probes are chosen among them alone."""

EFFORTS = {
    "low": Effort(lists=1, about=0, turns=1, rephrasings=1.0, wordings=6, contrast=1.0),
    "normal": Effort(lists=3, about=1, turns=2, rephrasings=1.0, wordings=14, contrast=1.5),
    "high": Effort(lists=8, about=3, turns=6, rephrasings=4.0, wordings=10, contrast=3.0),
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


@dataclass
class _Fact:
    """A fact while it is gathered: its value as a run of words and the pairs that ask for it."""

    key: tuple[str, ...]
    place: int
    pairs: list[Checked] = field(default_factory=list)
    old: tuple[str, ...] = ()

    @property
    def surface(self) -> str:
        """The value as the user wrote it."""
        return next((p.mention.surface for p in self.pairs if p.key == self.key), "")

    @property
    def about(self) -> frozenset[str]:
        """Stems of the words that say what the fact is about, from its answers and questions."""
        own = {stem(word) for word in self.key}
        counts: dict[str, int] = {}
        for pair in self.pairs:
            for word in (content(pair.question) | content(pair.answer)) - own:
                counts[word] = counts.get(word, 0) + 1
        said = frozenset().union(*(pair.mention.sentence.topic for pair in self.pairs))
        common = {word for word, n in counts.items() if 2 * n >= len(self.pairs)}
        return frozenset(common & said) or frozenset(common)


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
    passed += checker.vote(_missed(said, passed))
    facts = _group(passed)
    facts = _resolve(facts, said, checker)
    if len(facts) > max_facts:
        for fact in facts[max_facts:]:
            for pair in fact.pairs:
                checker.refuse(pair.question, MORE_THAN_WANTED)
        facts = facts[:max_facts]
    report(2)
    wanted = plan.wordings + (2 if plan.wordings >= 4 else 1)
    _add_wordings(reader, checker, facts, plan.rephrasings, wanted)
    for fact in facts:
        _keep_on_topic(fact, checker)
    chosen = [_choose(fact, plan.wordings, hold_out, rng, checker) for fact in facts]
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


def _group(pairs: Iterable[Checked]) -> list[_Fact]:
    """Pairs with the same value, said in the same sentence or of the same thing, are one fact."""
    facts: list[_Fact] = []
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
            facts.append(_Fact(pair.key, place, [pair]))
    return sorted(facts, key=lambda fact: fact.place)


def _resolve(facts: list[_Fact], said: UserWords, checker: Checker) -> list[_Fact]:
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


def _add_wordings(
    reader: Reader, checker: Checker, facts: Sequence[_Fact], rephrasings: float, wanted: int
) -> None:
    """More wordings: neutral frames for all facts; for those that lack more, the model's own."""
    proposals = []
    for place, fact in enumerate(facts):
        # A small model's own wordings are much alike: some neutral ones always, others each time.
        turn = place * NEUTRAL_FRAMES_A_FACT % len(NEUTRAL_FRAMES)
        frames = (*NEUTRAL_FRAMES[turn:], *NEUTRAL_FRAMES[:turn])
        count = max(NEUTRAL_FRAMES_A_FACT, wanted - len(fact.pairs))
        proposals += _framed(fact, frames, NEUTRAL, count)
    _take(checker, proposals)
    asked = [
        (fact, pair, REPHRASE_INSTRUCTION.format(question=pair.question))
        for fact in facts
        for pair in _repeated(fact.pairs, round(rephrasings * (wanted - len(fact.pairs))))
    ]
    prompts = [reader.with_conversation(pair.window, request) for _, pair, request in asked]
    texts = reader.generate(prompts, max_new_tokens=QUESTION_TOKENS, temperature=0.9, round_=3)
    proposals = [
        (fact, Candidate(tidy(text.split("\n", 1)[0]), pair.window, "rephrase", fact.key))
        for (fact, pair, _), text in zip(asked, texts, strict=True)
    ]
    _take(checker, proposals)
    own = _frames(facts)
    proposals = []
    for fact in facts:
        proposals += _framed(fact, own, "frame", max(0, wanted - len(fact.pairs)))
    _take(checker, proposals)


def _framed(
    fact: _Fact, frames: Iterable[str], origin: str, count: int
) -> list[tuple[_Fact, Candidate]]:
    """A fact in so many frames. They keep what is asked for, so the answer's stem may be given."""
    parts, known = _parts(fact), {pair.question for pair in fact.pairs}
    window = fact.pairs[0].window
    return [
        (fact, Candidate(text, window, origin, fact.key, parts.answer_stem))
        for text in _fillings(frames, parts, known, count)
    ]


def _fillings(frames: Iterable[str], parts: Parts, known: set[str], most: int) -> list[str]:
    """New questions from frames."""
    made = (text for frame in frames if (text := fill(frame, parts)) and text not in known)
    return list(islice(dict.fromkeys(made), most))


def _repeated(pairs: Sequence[Checked], count: int) -> list[Checked]:
    """So many pairs, each in its turn."""
    return [pairs[i % len(pairs)] for i in range(max(0, count))]


def _take(checker: Checker, proposals: Sequence[tuple[_Fact, Candidate]]) -> None:
    """Check rewordings and add those that pass to their facts."""
    of = {candidate.question: fact for fact, candidate in reversed(proposals)}
    for pair in checker.check([candidate for _, candidate in proposals]):
        of[pair.question].pairs.append(pair)


def _parts(fact: _Fact) -> Parts:
    return parts_of_fact([(p.question, p.answer) for p in fact.pairs], fact.surface)


def _frames(facts: Sequence[_Fact]) -> list[str]:
    """The frames of all questions, the commonest first."""
    counts: dict[str, int] = {}
    for fact in facts:
        parts = _parts(fact)
        for pair in fact.pairs:
            if frame := frame_of(pair.question, parts):
                counts[frame] = counts.get(frame, 0) + 1
    return sorted(counts, key=lambda frame: -counts[frame])


# ---------------------------------------------------------------------------- choosing
def _keep_on_topic(fact: _Fact, checker: Checker) -> None:
    """Drop wordings that name nothing of what the others ask for, only whose it is."""
    holders = {stem(name) for pair in fact.pairs for name in owners(pair.question)}
    topics = [topic(pair.question) - holders for pair in fact.pairs]
    core = {word for words in topics for word in words}
    core = {word for word in core if 2 * sum(word in words for words in topics) >= len(topics)}
    kept = []
    for pair, about in zip(fact.pairs, topics, strict=True):
        if core and not about & core:
            checker.refuse(pair.question, TOO_VAGUE)
        else:
            kept.append(pair)
    fact.pairs = kept


def _choose(
    fact: _Fact, wordings: int, hold_out: float, rng: random.Random, checker: Checker
) -> tuple[list[Checked], list[Checked]]:
    """Training wordings and held-out ones of a fact; near-duplicates are left out."""
    distinct: list[Checked] = []
    for pair in fact.pairs:
        if any(similarity(pair.question, other.question) >= NEAR_DUPLICATE for other in distinct):
            checker.refuse(pair.question, NEAR_ANOTHER)
        else:
            distinct.append(pair)
    count = min(len(distinct), wordings + 2)
    held = 0 if count < 2 else max(1, min(2, round(hold_out * count)))
    if not held:
        for pair in distinct:
            checker.refuse(pair.question, FEW_WORDINGS)
        return [], []
    # What a small model words most unlike the others is often garbled, and no fair question.
    clean = [pair for pair in distinct if pair.origin == NEUTRAL]
    pool = clean if len(clean) >= CLEAN_WORDINGS else list(distinct)
    # A recall probe is any wording; the paraphrase probe is the one least like the others.
    probes = [pool.pop(rng.randrange(len(pool)))]
    distinct.remove(probes[0])
    if held > 1:
        least = min(
            pool,
            key=lambda pair: max(
                similarity(pair.question, other.question) for other in distinct if other is not pair
            ),
        )
        distinct.remove(least)
        probes.append(least)
    clean = [pair for pair in distinct if pair.origin == NEUTRAL]
    own = [pair for pair in distinct if pair.origin != NEUTRAL]
    trained = _spread(clean, wordings)
    trained += _spread(own, wordings - len(trained))
    for pair in distinct:
        if pair not in trained:
            checker.refuse(pair.question, MORE_THAN_WANTED)
    return trained, probes


def _spread(pairs: Sequence[Checked], count: int) -> list[Checked]:
    """So many wordings, each the one least like those before it: few must stand for many."""
    if count <= 0:
        return []
    left, chosen = list(pairs[1:]), list(pairs[:1])
    near = [similarity(pair.question, pairs[0].question) for pair in left]
    while left and len(chosen) < count:
        at = min(range(len(left)), key=lambda i: (near[i], i))
        chosen.append(left.pop(at))
        near.pop(at)
        near = [
            max(old, similarity(pair.question, chosen[-1].question))
            for old, pair in zip(near, left, strict=True)
        ]
    return chosen


def _write(
    conversation: Conversation,
    reader: Reader,
    facts: Sequence[_Fact],
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
        texts += [TrainingText(chat(pair.question, pair.answer), "fact", group) for pair in trained]
        first = trained[0]
        context = in_context(reader.windows[first.window], first.question)
        texts.append(TrainingText((*context, Message("assistant", first.answer)), "reading", group))
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


def _group_name(fact: _Fact, taken: set[str]) -> str:
    """A name that a person can read: "my aunt's cat: Gorla"."""
    parts = _parts(fact)
    about = parts.thing or parts.direct or " ".join(sorted(fact.about)[:5])
    name = base = f"{about}: {fact.surface}"
    number = 2
    while name in taken:
        name, number = f"{base} ({number})", number + 1
    return name


def _contrast_texts(
    reader: Reader,
    checker: Checker,
    facts: Sequence[_Fact],
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
            group, parts = next(groups), _parts(fact)
            wordings += [Wording(pair.question, group, parts, fact.key) for pair in trained]
    kept = [pair.question for fact in facts for pair in fact.pairs]
    found = make_contrast(
        reader, wordings, kept, checker.said, checker.lexicon, before, ratio=ratio, seed=seed
    )
    return [TrainingText(chat(one.question, one.answer), "contrast", one.group) for one in found]
