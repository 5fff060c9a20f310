"""From checked claims to facts: each thing told, in many wordings, and what lies beside it."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from engrain.exam.probes import fold, holds
from engrain.study import requests
from engrain.study.checks import ELSEWHERE, Checked, Checks, once, shape
from engrain.study.pieces import ask_for, piece_of
from engrain.study.writer import Writer

BORROWED = 6.0
"""Nats that a wording may owe to other messages than its own, beyond what the first one does. Of
128 wordings of two lessons 24 owed more, 20 of which mixed up two things ("the port of my new
puppy", 21 nats); "What do we call our new puppy?" owes 2."""
ENOUGH = 3
"""Wordings, or near misses, of a fact of which one is held out."""
COMMON = 3
"""Answers of a fact that all of its wordings may take over."""
WORDED = 2
"""Wordings of a fact for which other ways to ask are asked for."""


@dataclass
class Fact:
    """One thing told: its wordings, those that are held out, and near misses with their answers."""

    wordings: list[Checked]
    held: list[Checked] = field(default_factory=list)
    near: list[tuple[str, str]] = field(default_factory=list)

    @property
    def value(self) -> str:
        """The value in its shortest form."""
        return min((wording.value for wording in self.wordings), key=len)


def group(claims: Sequence[Checked]) -> list[Fact]:
    """Claims of one message whose values hold one another are one fact."""
    facts: list[Fact] = []
    for claim in claims:
        for fact in facts:
            other = fact.wordings[0]
            same = holds(other.value, claim.value) or holds(claim.value, other.value)
            if same and other.message == claim.message:
                fact.wordings.append(claim)
                break
        else:
            facts.append(Fact([claim]))
    return facts


def merge(facts: Sequence[Fact]) -> list[Fact]:
    """Facts of one message that are only ever answered together are one: "Mrs." and "Adeyemi"."""
    kept: list[Fact] = []
    for fact in facts:
        same = next((place for place, one in enumerate(kept) if _together(one, fact)), None)
        if same is None:
            kept.append(fact)
            continue
        value = max(kept[same].value, fact.value, key=len)
        both = [*kept[same].wordings, *fact.wordings]
        kept[same] = Fact([replace(wording, value=value) for wording in both])
    return kept


def _together(one: Fact, other: Fact) -> bool:
    """Whether each answer to one holds the other's value, too, which its question does not name."""
    if one.wordings[0].message != other.wordings[0].message:
        return False
    return all(
        holds(wording.target, value) and not holds(wording.question, value)
        for fact, value in ((one, other.value), (other, one.value))
        for wording in fact.wordings
    )


def add_wordings(
    facts: Sequence[Fact],
    writer: Writer,
    checks: Checks,
    *,
    questions: int,
    samples: int,
    most: int,
    known: Iterable[str] = (),
    turn: int = 3,
) -> None:
    """Ask for each fact in other words; what passes the round trip is kept, up to ``most``.

    First so many ``questions`` are asked of its message, each on its own; then, where there are
    too few, other ways to ask what was found, in so many ``samples``. Those that are likeliest
    to be asked come first. ``known`` are shapes of questions that must not be proposed; ``turn``
    tells samplings apart.
    """
    view = checks.reader.view
    met = {*known, *(shape(w.question) for fact in facts for w in fact.wordings)}
    if questions:
        told = [piece_of(view, fact.wordings[0].message, fact.value) for fact in facts]
        more = ask_for(writer, view, told, samples=questions, turn=turn + 6)
        _keep(facts, [[claim.question for claim in claims] for claims in more], checks, most, met)
    few = [fact for fact in facts if len(fact.wordings) < most]
    asked: list[tuple[Fact, str]] = []
    sampled: list[tuple[Fact, str]] = []
    for fact in few:
        own = [(fact, _other_ways(fact, w)) for w in fact.wordings[:WORDED]]
        asked += own
        # A fact with a single wording is asked for as often as the others.
        sampled += [own[number % len(own)] for number in range(WORDED * samples)]
    lines: dict[int, list[str]] = {id(fact): [] for fact in few}
    for wanted, temperature in ((asked, 0.0), (sampled, 0.8)):
        ways = [text for _, text in wanted]
        found = writer.write(view, ways, temperature=temperature, turn=turn + bool(temperature))
        for (fact, _), text in zip(wanted, found, strict=True):
            lines[id(fact)] += [one.partition("|")[0].strip() for one in requests.lines_of(text)]
    _keep(few, [lines[id(fact)] for fact in few], checks, most, met)


def _keep(
    facts: Sequence[Fact],
    proposed: Sequence[Sequence[str]],
    checks: Checks,
    most: int,
    met: set[str],
) -> None:
    """Add to each fact those of the questions proposed for it that pass the round trip."""
    left = {
        id(fact): once([line for line in lines if line and not holds(line, fact.value)], met)
        for fact, lines in zip(facts, proposed, strict=True)
    }
    # A question that is well put is likelier than others with the talk in view: those are read.
    likely = checks.likely([question for lines in left.values() for question in lines])
    for lines in left.values():
        lines.sort(key=lambda question: -likely[question])
    # Some pass and some don't: no more are read than are wanted and half as many again.
    while tried := [(f, q) for f in facts for q in left[id(f)][: _tried(most - len(f.wordings))]]:
        for fact in facts:
            del left[id(fact)][: _tried(most - len(fact.wordings))]
        checked = checks.read([(q, fact.value, fact.wordings[0].message) for fact, q in tried])
        by_question = {fold(one.question): one for one in checked}
        for fact, question in tried:
            one = by_question.get(fold(question))
            if one is not None and len(fact.wordings) < most:
                fact.wordings.append(one)
        keep_own(facts, checks)
    order(facts, checks)


def order(facts: Sequence[Fact], checks: Checks) -> None:
    """Put the likeliest wording of each fact first: it names the fact, and is always trained."""
    likely = checks.likely([wording.question for fact in facts for wording in fact.wordings])
    for fact in facts:
        fact.wordings.sort(key=lambda wording: -likely[wording.question])


def settle(facts: Sequence[Fact], checks: Checks) -> None:
    """Give each wording the answer that fits it best: its own, or a common one of its fact.

    With a whole chat in view a small reader may have the value right and the sentence wrong ("Your
    new puppy Biscotti is called"). Most wordings are answered well, and without the chat a sentence
    that is out of place is the less likely one.
    """
    options: list[tuple[Fact, int, str]] = []
    for fact in facts:
        counts = Counter(wording.target for wording in fact.wordings).most_common(COMMON)
        common = [answer for answer, times in counts if times > 1]
        for place, wording in enumerate(fact.wordings):
            options += [(fact, place, one) for one in dict.fromkeys((wording.target, *common))]
    said = checks.reader.unaided([(f.wordings[place].question, one) for f, place, one in options])
    best: dict[tuple[int, int], float] = {}
    for (fact, place, one), total in zip(options, said, strict=True):
        if total > best.get((id(fact), place), -math.inf):
            best[id(fact), place] = total
            fact.wordings[place] = replace(fact.wordings[place], target=one)


def hold_out(facts: Sequence[Fact], share: float, seed: int) -> None:
    """Take one or two of three and more wordings of each fact for its probes, never the first.

    They come from the likelier half: what nobody would ask shows nothing.
    """
    for fact in facts:
        first, *rest = fact.wordings
        if len(fact.wordings) < ENOUGH:
            continue
        count = max(1, min(2, round(share * len(fact.wordings))))
        rng = random.Random(f"held:{seed}:{first.question}: {fact.value}")
        held = sorted(rng.sample(range(max(count, len(rest) // 2)), count))
        fact.held = [rest[place] for place in held]
        fact.wordings = [first, *(w for place, w in enumerate(rest) if place not in held)]


def _other_ways(fact: Fact, wording: Checked) -> str:
    return requests.WORDINGS.format(question=wording.question, answer=fact.value)


def keep_own(facts: Sequence[Fact], checks: Checks) -> None:
    """Drop wordings that ask about a thing of another message."""
    for fact in facts:
        first, *others = fact.wordings
        own = owned(fact, [wording.question for wording in others], checks)
        pairs = list(zip(others, own, strict=True))
        checks.refused |= {w.question: ELSEWHERE for w, kept in pairs if not kept}
        fact.wordings = [first, *(w for w, kept in pairs if kept)]


def owned(fact: Fact, questions: Sequence[str], checks: Checks) -> list[bool]:
    """Whether each question asks about the fact, and not about a thing of another message.

    What it owes to other messages is not much more than what the fact's first wording does, which
    owes much where the message stands on what was said before.
    """
    first, place = fact.wordings[0].question, fact.wordings[0].message
    if not questions or sum(message.role == "user" for message in checks.reader.view) < 2:
        return [True] * len(questions)
    owes = checks.borrowed(place, [first, *questions])
    most = BORROWED + max(0.0, owes[first])
    return [owes[question] <= most for question in questions]


def _tried(wanted: int) -> int:
    """How many wordings are read for so many that are wanted."""
    return wanted + wanted // 2 if wanted > 0 else 0
