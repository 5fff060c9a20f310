"""From checked claims to facts: each thing told, in many wordings, and what lies beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from engrain.exam.probes import fold, holds
from engrain.study import requests
from engrain.study.checks import ELSEWHERE, Checked, Checks, once, shape
from engrain.study.pieces import ask_for, piece_of
from engrain.study.writer import Writer

WORDED = 2
"""Wordings of a fact for which other ways to ask are asked for."""
NEAR_WORDINGS = 4
"""Wordings of a fact beside which near misses are asked for."""


@dataclass
class Fact:
    """One thing told: its wordings, and near misses with the answer that they were not told."""

    wordings: list[Checked]
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


def _other_ways(fact: Fact, wording: Checked) -> str:
    return requests.WORDINGS.format(question=wording.question, answer=fact.value)


def keep_own(facts: Sequence[Fact], checks: Checks) -> None:
    """Drop wordings that ask about a thing of another message, and what answers say of one.

    An answer may have its value right and give it to a thing of another message. What the message
    alone is answered with can't.
    """
    for fact in facts:
        first, *others = fact.wordings
        own = owned(fact, [wording.question for wording in others], checks)
        pairs = list(zip(others, own, strict=True))
        checks.refused |= {w.question: ELSEWHERE for w, kept in pairs if not kept}
        fact.wordings = [first, *(w for w, kept in pairs if kept)]
        if checks.words(first.question, first.message, fact.value):
            fact.wordings = [
                replace(w, target=checks.words(w.question, w.message, fact.value) or w.target)
                for w in fact.wordings
            ]


def owned(fact: Fact, questions: Sequence[str], checks: Checks) -> list[bool]:
    """Whether each question asks about the fact, and not about a thing of another message.

    Where the fact is read in its message alone, by its first wording, so must it be by the others;
    where it is not, the message stands on what was said before, and nothing can be told.
    """
    first = fact.wordings[0]
    if not questions or sum(message.role == "user" for message in checks.reader.view) < 2:
        return [True] * len(questions)
    read, *own = checks.alone(
        [(question, fact.value, first.message) for question in (first.question, *questions)]
    )
    return own if read else [True] * len(questions)


def _tried(wanted: int) -> int:
    """How many wordings are read for so many that are wanted."""
    return wanted + wanted // 2 if wanted > 0 else 0


def add_near_misses(facts: Sequence[Fact], writer: Writer, checks: Checks, *, most: int) -> None:
    """Ask for near misses in the forms of a fact's wordings; what was told after all is dropped."""
    view = checks.reader.view
    asked, owners = [], []
    for fact in facts:
        step = max(1, len(fact.wordings) // NEAR_WORDINGS)
        for wording in fact.wordings[::step][:NEAR_WORDINGS]:
            asked.append(requests.NEAR.format(question=wording.question, answer=fact.value))
            owners.append(fact)
    known = {shape(w.question) for fact in facts for w in fact.wordings}
    proposals: list[tuple[Fact, str]] = []
    for fact, text in zip(owners, writer.write(view, asked, temperature=0.0, turn=7), strict=True):
        lines = [line.partition("|")[0].strip() for line in requests.lines_of(text)]
        proposals += [(fact, line) for line in once([line for line in lines if line], known)]
    told = dict(checks.untold([line for _, line in proposals]))
    beside = [(fact, line) for fact, line in proposals if line in told]
    # A question that the value would answer, so the verdict, or that it answers where nothing else
    # is in view, is no near miss but a misread wording.
    odds = checks.reader.believes([(line, fact.value) for fact, line in beside])
    answered = checks.alone([(line, f.value, f.wordings[0].message) for f, line in beside])
    for (fact, line), believed, read in zip(beside, odds, answered, strict=True):
        if believed <= checks.belief and not read and len(fact.near) < most:
            fact.near.append((line, told[line]))
