"""From checked claims to facts: each thing told, in many wordings, and what lies beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from engrain.exam.probes import fold, holds
from engrain.study import requests
from engrain.study.checks import Checked, Checks, once, shape
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
    samples: int,
    most: int,
    known: Iterable[str] = (),
    turn: int = 3,
) -> None:
    """Ask for each fact in other words; what passes the round trip is kept, up to ``most``.

    ``known`` are shapes of questions that must not be proposed; ``turn`` tells samplings apart.
    """
    view = checks.reader.view
    asked, owners = [], []
    for fact in facts:
        for wording in fact.wordings[:WORDED]:
            text = requests.WORDINGS.format(question=wording.question, answer=fact.value)
            asked.append(text)
            owners.append(fact)
    texts = list(zip(owners, writer.write(view, asked, temperature=0.0, turn=turn), strict=True))
    for sample in range(samples):
        sampled = writer.write(view, asked, temperature=0.8, turn=turn + 1 + sample)
        texts += zip(owners, sampled, strict=True)
    met = {*known, *(shape(w.question) for fact in facts for w in fact.wordings)}
    proposals: list[tuple[Fact, str]] = []
    for fact, text in texts:
        lines = [line.partition("|")[0].strip() for line in requests.lines_of(text)]
        fresh = once([line for line in lines if line and not holds(line, fact.value)], met)
        proposals += [(fact, line) for line in fresh]
    checked = checks.read(
        [(line, fact.value, fact.wordings[0].message) for fact, line in proposals]
    )
    by_question = {fold(one.question): one for one in checked}
    for fact, line in proposals:
        one = by_question.get(fold(line))
        if one is not None and len(fact.wordings) < most:
            fact.wordings.append(one)


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
    # A question that the value would answer, so the verdict, is no near miss but a misread wording.
    odds = checks.reader.believes([(line, fact.value) for fact, line in beside])
    for (fact, line), believed in zip(beside, odds, strict=True):
        if believed <= checks.belief and len(fact.near) < most:
            fact.near.append((line, told[line]))
