"""A proposed lesson as a text file, to be read and changed before anything is trained.

    [On which day do we get the keys: Thursday]
    ? On which day do we get the keys?
    ? Keys for the flat, which day?
    > You get the keys on Thursday.
    - On which day do we get the furniture?
    > I don't know. You haven't told me.

    [probes]
    ? When are the keys handed over?
    = Thursday
    - When is the piano handed over?

``?`` lines are questions, ``-`` lines near misses, and ``>`` answers those before it. What is
deleted is not learned; what is added is. Lines with ``#`` are comments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

from engrain.data.lessons import Lesson, Probe, ProbeKind, TrainingText, chat
from engrain.errors import UsageError

PROBES = "probes"
HEAD = (
    "# {title}\n# Change, add or delete lines, save and close. '?' asks, '-' asks for what\n"
    "# was not told, '>' answers the lines before it. Delete everything to learn nothing.\n"
)


def to_text(lesson: Lesson) -> str:
    """The lesson to edit; what has more than one turn is left out, and kept as it is."""
    blocks = [HEAD.format(title=lesson.title)]
    groups = dict.fromkeys(text.group for text in lesson.texts)
    for name in groups:
        answers: dict[tuple[str, str], list[str]] = {}
        for text in lesson.texts:
            if text.group == name and _plain(text):
                sign = "-" if text.kind == "contrast" else "?"
                answers.setdefault((sign, text.target), []).append(text.question)
        if answers:
            lines = [f"[{name}]"]
            for (sign, target), asked in answers.items():
                lines += [f"{sign} {_line(question)}" for question in asked]
                lines.append(f"> {_line(target)}")
            blocks.append("\n".join(lines))
    probes = [p for p in lesson.probes if len(p.messages) == 1]
    if probes:
        lines = [f"[{PROBES}]"]
        for probe in probes:
            lines.append(f"{'?' if probe.answers else '-'} {_line(probe.messages[0].content)}")
            lines += [f"= {_line(answer)}" for answer in probe.answers]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def from_text(text: str, lesson: Lesson) -> Lesson:
    """The lesson that an edited text holds; texts of groups that are gone go with them.

    Raises:
        UsageError: with the line: a question without an answer, an answer without a question.
    """
    texts: list[TrainingText] = []
    probes: list[Probe] = []
    kinds = {t.group: t.kind for t in lesson.texts if t.kind in ("fact", "explicit")}
    old = {p.messages[0].content: p for p in lesson.probes if len(p.messages) == 1}
    for number, name, sign, asked, answers in _parsed(text):
        if name == PROBES:
            known = old.get(asked[0])
            if known and known.answers == tuple(answers):
                probes.append(known)
                continue
            digest = hashlib.sha256(f"{asked[0]}\n{answers}".encode()).hexdigest()[:12]
            told: ProbeKind = "recall" if answers else "abstention"
            probes.append(Probe(f"edited-{digest}", told, chat(asked[0]), tuple(answers)))
            continue
        if not name:
            raise UsageError(
                f"Line {number} stands before the first [group].", remedy="Put it under a group."
            )
        kind = "contrast" if sign == "-" else kinds.get(name, "fact")
        texts += [TrainingText(chat(question, answers[0]), kind, name) for question in asked]
    groups = {found.group for found in texts}
    kept = [found for found in lesson.texts if not _plain(found) and found.group in groups]
    probes += [probe for probe in lesson.probes if len(probe.messages) > 1]
    return replace(lesson, texts=(*texts, *kept), probes=tuple(probes))


def _parsed(text: str) -> Iterator[tuple[int, str, str, list[str], list[str]]]:
    """(line, group, sign, questions, answers), block by block."""
    name, sign = "", ""
    asked: list[str] = []
    answers: list[str] = []
    last = 0
    for number, raw in enumerate([*text.splitlines(), "["], start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        mark, rest = line[0], line[1:].strip()
        # A probe that asks for what was not told has no answer.
        alone = name == PROBES and sign == "-" and len(asked) == 1
        if mark in "?-[" and (answers or alone):
            yield last, name, sign, asked, answers
            asked, answers = [], []
        if mark == "[":
            if asked:
                raise UsageError(
                    f"Line {last} asks something and has no answer: {asked[-1]!r}.",
                    remedy="Put '> answer' below it ('= answer' below a probe), or delete it.",
                )
            name = rest.rstrip("]")
        elif mark in "?-" and rest:
            if asked and mark != sign:
                raise UsageError(
                    f"Line {last} asks something and has no answer: {asked[-1]!r}.",
                    remedy="Put '> answer' below it, or delete it.",
                )
            sign = mark
            asked.append(rest)
        elif mark == (">" if name != PROBES else "=") and rest and asked and not alone:
            answers.append(rest)
        else:
            raise UsageError(
                f"Line {number} can't be read: {line!r}.",
                remedy="Lines begin with [, ?, -, > or #; in [probes] with ?, = or #.",
            )
        last = number


def _plain(text: TrainingText) -> bool:
    return len(text.messages) == 2 and text.kind in ("fact", "contrast", "explicit")


def _line(text: str) -> str:
    return " ".join(text.split())
