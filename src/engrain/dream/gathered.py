"""The wordings of a fact: gathered, made from frames, chosen for training and for probes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice

from engrain.data.facts import REPHRASE_INSTRUCTION
from engrain.dream.checks import NEUTRAL, Candidate, Checked, Checker
from engrain.dream.frames import (
    NEUTRAL_FRAMES,
    Parts,
    asked_otherwise,
    fill,
    frame_of,
    parts_of_fact,
)
from engrain.dream.grown import grown_frames
from engrain.dream.reader import QUESTION_TOKENS, Reader
from engrain.study.wording import content, owners, similarity, stem, tidy, topic

NEAR_DUPLICATE = 0.92
"""Similarity from which two wordings of a fact count as one."""
TOO_VAGUE = "it does not say what it asks for"
NEAR_ANOTHER = "nearly the same wording as another"
MORE_THAN_WANTED = "more wordings or facts than wanted"
FEW_WORDINGS = "only one wording was found: nothing is left to train on beside the probe"
GROWN = "grown"
"""The origin of wordings that are put into frames and not read again."""
CLEAN_WORDINGS = 4
"""Wordings in neutral frames that must be read alike before a fact is put into further frames, and
that the model must read by itself before probes are chosen among them alone."""
TRIES = 20
"""Frames looked at for each grown wording that is wanted."""


@dataclass
class GatheredFact:
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
    def parts(self) -> Parts:
        """What the fact's questions ask for, in the shapes that frames take."""
        told = self.pairs[0].mention.sentence.text if self.pairs else ""
        return parts_of_fact([(p.question, p.answer) for p in self.pairs], self.surface, told)

    @property
    def settled(self) -> bool:
        """Whether what is asked for is known for sure, so that it can stand in any frame."""
        read = sum(pair.origin == NEUTRAL for pair in self.pairs)
        return bool(self.parts.name) and read >= CLEAN_WORDINGS

    @property
    def target(self) -> str:
        """The answer that all wordings are taught: the plainest, and of those the commonest.

        Each way to put an answer ("You said that ...") would have to be learned by itself.
        """
        counts = Counter(pair.answer for pair in self.pairs)
        stem = self.parts.answer_stem

        def plain(text: str) -> tuple[bool, bool, int]:
            begins = bool(stem) and text.startswith(stem)
            return begins and text.rstrip(".!").endswith(self.surface), begins, counts[text]

        return max(counts, key=plain)

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


def add_wordings(
    reader: Reader, checker: Checker, facts: Sequence[GatheredFact], rephrasings: float, wanted: int
) -> None:
    """So many more wordings that are read: in neutral frames; where those fail, the model's own."""
    proposals = []
    for place, fact in enumerate(facts):
        # A small model's own wordings are much alike: some neutral ones always, others each time.
        turn = place * wanted % len(NEUTRAL_FRAMES)
        frames = (*NEUTRAL_FRAMES[turn:], *NEUTRAL_FRAMES[:turn])
        proposals += _framed(fact, frames, NEUTRAL, wanted)
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
    fact: GatheredFact, frames: Iterable[str], origin: str, count: int
) -> list[tuple[GatheredFact, Candidate]]:
    """A fact in so many frames. They keep what is asked for, so the answer's stem may be given."""
    parts, known = fact.parts, {pair.question for pair in fact.pairs}
    window = fact.pairs[0].window
    return [
        (fact, Candidate(text, window, origin, fact.key, parts.answer_stem))
        for text in _fillings(frames, parts, known, count)
    ]


def _fillings(frames: Iterable[str], parts: Parts, known: set[str], most: int) -> list[str]:
    """New questions from frames; whoever is asked for is asked for as a thing every second time."""
    shapes = cycle((parts, asked_otherwise(parts)))
    filled = (fill(frame, shape) for frame, shape in zip(frames, shapes, strict=False))
    made = (text for text in filled if text and text not in known)
    return list(islice(dict.fromkeys(made), most))


def _repeated(pairs: Sequence[Checked], count: int) -> list[Checked]:
    """So many pairs, each in its turn."""
    return [pairs[i % len(pairs)] for i in range(max(0, count))]


def _take(checker: Checker, proposals: Sequence[tuple[GatheredFact, Candidate]]) -> None:
    """Check rewordings and add those that pass to their facts."""
    of = {candidate.question: fact for fact, candidate in reversed(proposals)}
    for pair in checker.check([candidate for _, candidate in proposals]):
        of[pair.question].pairs.append(pair)


def _frames(facts: Sequence[GatheredFact]) -> list[str]:
    """The frames of all questions, the commonest first."""
    counts: dict[str, int] = {}
    for fact in facts:
        parts = fact.parts
        for pair in fact.pairs:
            if frame := frame_of(pair.question, parts):
                counts[frame] = counts.get(frame, 0) + 1
    return sorted(counts, key=lambda frame: -counts[frame])


def keep_on_topic(fact: GatheredFact, checker: Checker) -> None:
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


def choose(
    fact: GatheredFact,
    wordings: int,
    hold_out: float,
    rng: random.Random,
    checker: Checker,
    asked: set[str],
) -> tuple[list[Checked], list[Checked]]:
    """Training wordings and held-out ones of a fact; near-duplicates are left out.

    ``asked`` holds the frames of the lesson's probes so far, and gets those of this fact's: a frame
    held out of every fact would be learned from none.
    """
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
    # What a small model words most unlike the others is often garbled, and no fair question; nor
    # is a wording that it answers only with help even while the conversation is in view.
    clean = [pair for pair in distinct if pair.origin == NEUTRAL and not pair.stem]
    pool = clean if len(clean) >= CLEAN_WORDINGS else list(distinct)
    parts = fact.parts
    unasked = [pair for pair in pool if frame_of(pair.question, parts) not in asked]
    pool = unasked if len(unasked) >= held else pool
    # Drawn at random: what is least like the others is the oddest wording, and no sample of them.
    probes = rng.sample(pool, held)
    distinct = [pair for pair in distinct if pair not in probes]
    asked.update(frame for pair in probes if (frame := frame_of(pair.question, parts)))
    clean = [pair for pair in distinct if pair.origin == NEUTRAL]
    # Once it is sure what is asked for, a wording of the model's own must ask for just that.
    settled = fact.settled
    own = [pair for pair in distinct if pair.origin != NEUTRAL]
    own = [pair for pair in own if not settled or frame_of(pair.question, parts)]
    trained = spread(clean, wordings)
    trained += spread(own, wordings - len(trained))
    for pair in distinct:
        if pair not in trained:
            checker.refuse(pair.question, MORE_THAN_WANTED)
    if settled:
        known = {pair.question for pair in (*trained, *probes)} | checker.refused.keys()
        trained += _grown(fact, known, wordings - len(trained), rng)
    return trained, probes


def _grown(
    fact: GatheredFact, known: Collection[str], count: int, rng: random.Random
) -> list[Checked]:
    """A settled fact in so many further frames, none of them nearly a known question."""
    tries = TRIES * max(0, count)
    made: list[Checked] = []
    for text in _fillings(islice(grown_frames(rng), tries), fact.parts, set(), tries):
        if len(made) == count:
            break
        if not any(similarity(text, question) >= NEAR_DUPLICATE for question in known):
            made.append(replace(fact.pairs[0], question=text, origin=GROWN, stem=""))
    return made


def spread(pairs: Sequence[Checked], count: int) -> list[Checked]:
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
