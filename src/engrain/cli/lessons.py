"""``engrain lessons``: list, show, disable, enable, undo, verify."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engrain.cli.command import Stopped
from engrain.cli.outcomes import REFUSED, sentence
from engrain.cli.session import Answer, DryRun, Session, count, resumable, verb

if TYPE_CHECKING:
    from engrain.home import Home
    from engrain.ledger.records import LessonEntry, LessonRecord
    from engrain.lesson.changes import Change
    from engrain.lesson.told import Answers

ANSWER = 120
"""Letters of an answer that are shown; --json has all."""
Lesson = Annotated[
    str, typer.Argument(metavar="LESSON", help="An id, the beginning of one, or 'last'.")
]


@verb("list", examples="engrain lessons list\nengrain lessons list --json")
def list_(session: Session) -> Answer:
    """List all lessons, in the order in which they were learned."""
    entries = session.home().lessons()
    data = {"lessons": [entry_data(entry) for entry in entries]}
    if not entries:
        return Answer(data, "No lesson yet: learn one with `engrain learn CONVERSATION.json`.")
    return Answer(data, table(entries), [entry.id for entry in entries])


def table(entries: list[LessonEntry]) -> Any:
    """Lessons for a terminal."""
    from engrain.cli.sheets import table as drawn
    from engrain.exam.report import Sheet, percent

    rows, marks = [], []
    for entry in entries:
        recall = _recall(entry)
        shown = " -> ".join(percent(value) for value in recall) if recall else "-"
        rows.append((entry.id, entry.status, entry.at[:16].replace("T", " "), shown, entry.title))
        marks.append({"active": "good", "rejected": "bad"}.get(entry.status, "fair"))
    columns = ("lesson", "status", "learned (UTC)", "recall", "about")
    return drawn(Sheet("", columns, tuple(rows), (), tuple(marks)), words=True)


def entry_data(entry: LessonEntry) -> dict[str, Any]:
    """A lesson's line for programs."""
    recall = _recall(entry) or (None, None)
    return {
        "lesson": entry.id,
        "title": entry.title,
        "status": entry.status,
        "at": entry.at,
        "recipe": entry.recipe.get("name"),
        "recall_before": recall[0],
        "recall_after": recall[1],
        "seconds": entry.measured_seconds,
        "state_before": entry.parent_state,
        "state_after": entry.state,
    }


def _recall(entry: LessonEntry) -> tuple[float, float] | None:
    for check in entry.decision.get("checks", ()):
        if check["name"] == "recall" and check["after"] is not None:
            return check["before"], check["after"]
    return None


@verb("show", examples="engrain lessons show last\nengrain lessons show 0kq3 --json")
def show(session: Session, lesson: Lesson) -> Answer:
    """Explain a lesson: sources, texts, recipe, exams, decision, digests."""
    from engrain.lesson import told

    home = session.home()
    record = home.show(lesson)
    answers = told.answers(record, home.ledger)
    return Answer(record_data(record, answers), _explained(record, answers), [record.id])


def record_data(record: LessonRecord, answers: Sequence[Answers]) -> dict[str, Any]:
    """A lesson with all that proves it, for programs."""
    return {
        **entry_data(record.entry()),
        "sources": list(record.lesson.sources),
        "texts": [text.to_dict() for text in record.lesson.texts],
        "weak": weak(record),
        "probes": [probe.to_dict() for probe in record.lesson.probes],
        "recipe": dict(record.recipe),
        "recipe_digest": record.recipe_digest,
        "adapter": record.adapter,
        "base_digest": record.base_digest,
        "answers": [one.to_dict() for one in answers],
        "exam_before": dict(record.exam_before),
        "exam_after": dict(record.exam_after),
        "decision": dict(record.decision),
        "seed": record.seed,
        "estimated_seconds": record.estimated_seconds,
        "peak_memory_bytes": record.peak_memory_bytes,
        "versions": dict(record.versions),
        "job": record.job,
    }


def weak(record: LessonRecord) -> dict[str, list[str]]:
    """Questions that the exam found unanswered, and facts that no question was held out of."""
    from engrain.exam.exam import Exam
    from engrain.lesson.weak import missed, questions, unexamined

    lesson, exam = record.lesson, Exam.from_dict(dict(record.exam_after))
    return {"missed": questions(missed(lesson, exam)), "unexamined": unexamined(lesson)}


def _explained(record: LessonRecord, answers: Sequence[Answers]) -> Any:
    from rich.console import Group
    from rich.text import Text

    from engrain.cli.sheets import tables
    from engrain.exam.decision import Decision
    from engrain.exam.report import decision_sheet, number, size

    facts = [
        ("lesson", f"{record.id}, {record.status}, learned {record.at[:16].replace('T', ' ')} UTC"),
        ("about", record.lesson.title),
        ("sources", _sources(record)),
        ("recipe", f"{record.recipe.get('name')} (digest {record.recipe_digest[:12]})"),
        ("adapter", (record.adapter or "none")[:12]),
        ("weights", f"{record.parent_state[:12]} -> {record.state[:12]}"),
        (
            "cost",
            f"{number(record.measured_seconds, 1)} s "
            f"(told beforehand: {number(record.estimated_seconds, 1)} s), "
            f"{size(record.peak_memory_bytes)} at most",
        ),
    ]
    lines = [f"{name:<9}{words}" for name, words in facts]
    lines += ["", "Trained on"]
    lines += [f"  {text.question}  ->  {text.target}" for text in record.lesson.facts()]
    kept = len(record.lesson.texts) - len(record.lesson.facts())
    if kept:
        lines.append(f"  and {kept} texts that keep what is near as it was")
    lines += ["", "What it changed: questions held out of it, answered before and after"]
    own = [one for one in answers if one.lesson == record.id]
    lines += [line for one in own for line in said(one)] or ["  none was held out"]
    others = [one for one in answers if one.lesson != record.id]
    if changed := [one for one in others if one.changed]:
        lines += ["", f"What it changed of other lessons ({len(changed)} of {len(others)} asked)"]
        lines += [line for one in changed for line in said(one)]
    elif others:
        lines += ["", f"Questions of other lessons: {len(others)} asked, none answered otherwise"]
    lines += _weak_lines(record)
    lines += _round_lines(record.decision)
    parts: list[Any] = [Text("\n".join(lines)), Text("")]
    if record.decision:
        parts.append(tables(decision_sheet(Decision.from_dict(dict(record.decision)))))
    return Group(*parts)


def _weak_lines(record: LessonRecord) -> list[str]:
    found = weak(record)
    lines = [f"  missed in the exam: {question}" for question in found["missed"]]
    lines += [f"  not examined, no question was held out: {group}" for group in found["unexamined"]]
    return ["", "Weak", *lines] if lines else []


def _round_lines(decision: Mapping[str, Any]) -> list[str]:
    """The rounds of training, where there were two, and what was trained again beside them."""
    lines: list[str] = []
    rounds = decision.get("rounds", ())
    if len(rounds) > 1:
        lines += ["", "Rounds"]
        for number, one in enumerate(rounds, start=1):
            missing = "; ".join(one["missing"]) or "nothing"
            kept = ", kept" if one["kept"] else ""
            lines.append(f"  {number}: {one['steps']} steps{kept}, then missing: {missing}")
    if again := decision.get("again"):
        lines += ["", "Trained again, since earlier lessons did not recall it"]
        lines += [
            f"  {group} (lesson {name})" for name, groups in again.items() for group in groups
        ]
    return lines


def said(answers: Answers) -> list[str]:
    """A question with what was said to it before and after, as lines."""
    then, now = (
        "not asked" if text is None else f'{"right" if right else "wrong"}: "{short(text)}"'
        for text, right in (
            (answers.before, answers.right_before),
            (answers.after, answers.right_after),
        )
    )
    same = answers.before is not None and not answers.changed
    return [f"  {answers.question}", f"    {then}, as before" if same else f"    {then} -> {now}"]


def short(text: str) -> str:
    """An answer on one line, cut where it says enough."""
    line = " ".join(text.split())
    return line if len(line) <= ANSWER else f"{line[:ANSWER]} ..."


def _sources(record: LessonRecord) -> str:
    """Where a lesson came from."""
    if origin := record.decision.get("origin"):
        return f"lesson {origin.get('lesson')} of another home, file {str(origin['file'])[:12]}"
    return ", ".join(digest[:12] for digest in record.lesson.sources) or "examples"


@verb("disable", examples="engrain lessons disable last")
def disable(session: Session, lesson: Lesson = "last", dry_run: DryRun = False) -> Answer:
    """Take a lesson out of service; `enable` brings it back."""
    return changed(session.home().disable(lesson, dry_run=dry_run), "disabled", dry_run)


@verb("enable", examples="engrain lessons enable 0kq3")
def enable(session: Session, lesson: Lesson = "last", dry_run: DryRun = False) -> Answer:
    """Serve a disabled lesson again, or let a quarantined one in."""
    return changed(session.home().enable(lesson, dry_run=dry_run), "enabled", dry_run)


@verb("undo", examples="engrain lessons undo last\nengrain lessons undo 0kq3 --relearn")
def undo(
    session: Session,
    lesson: Lesson = "last",
    relearn: Annotated[
        bool, typer.Option("--relearn", help="Learn the later lessons again, without it.")
    ] = False,
    dry_run: DryRun = False,
) -> Answer:
    """Take a lesson out for good; its record stays.

    Undoing the last lesson gives back the weights of before it, to the bit. Later lessons were
    learned with this one in the weights: what they lose by its leaving is measured and told, and
    with --relearn they are learned again as if it had never been.
    """
    home = session.home()
    if not relearn:
        return changed(home.undo(lesson, dry_run=dry_run), "undone", dry_run)
    with session.progress("Learning again") as on_progress, _waiting(home):
        change = home.undo(lesson, relearn=True, dry_run=dry_run, on_progress=on_progress)
    return changed(change, "undone", dry_run, relearn=True)


@contextmanager
def _waiting(home: Home) -> Iterator[None]:
    """Tell whoever stops it which lessons are out of service and wait to be learned again."""
    before = {entry.id for entry in home.lessons() if entry.status == "active"}
    try:
        yield
    except KeyboardInterrupt as stop:
        waiting = [e.id for e in home.lessons() if e.id in before and e.status == "disabled"]
        if not waiting:
            raise
        raise Stopped(
            f"Out of service until they are learned again: {', '.join(waiting)}.",
            remedy=f"Go on with `engrain lessons relearn {' '.join(waiting)}`, or take them back "
            "as they were, one by one, with `engrain lessons enable`.",
        ) from stop


@verb("relearn", examples="engrain lessons relearn 0kq3\nengrain lessons relearn 0kq3 0kq9")
def relearn(
    session: Session,
    lessons: Annotated[
        list[str], typer.Argument(metavar="LESSON...", help="Ids or their beginnings, in order.")
    ],
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", metavar="NAME", help="Recipe, else that of the first time."),
    ] = None,
    require: Annotated[
        bool, typer.Option("--require", help="Report a refusal of the gate as an error.")
    ] = False,
) -> Answer:
    """Learn the stored texts of lessons again, on the weights as they are.

    For what is out of service: disabled, undone, or refused by the gate. Each becomes a new lesson
    and passes the gate like any other; the exit code is 3 if one does not.
    """
    home = session.home()
    outcomes = []
    for name in lessons:
        with session.progress("Learning again") as on_progress, resumable(home):
            outcome = home.relearn(name, recipe=recipe, on_progress=on_progress, require=require)
        outcomes.append(outcome)
    return Answer(
        {"lessons": [outcome.to_dict() for outcome in outcomes]},
        "\n".join(sentence(outcome) for outcome in outcomes),
        [outcome.lesson.id for outcome in outcomes],
        0 if all(outcome.accepted for outcome in outcomes) else REFUSED,
    )


def changed(change: Change, done: str, dry_run: bool = False, relearn: bool = False) -> Answer:
    """A change of what is served, in one line, and one more for what it costs the others."""
    verb_ = f"Would be {done}" if dry_run else done.capitalize()
    lines = [
        f"{verb_}: lesson {change.lesson} ({change.title}). "
        f"Weights {change.state_before[:12]} -> {change.state_after[:12]}."
    ]
    others, later = change.others, count(len(change.later), "later lesson")
    if others and others.asked:
        asked = f"of {others.asked} questions about the other lessons {others.before} were right"
        lines.append(f"{asked.capitalize()}, and {others.after} without it.")
    if change.relearned:
        lines += [sentence(outcome) for outcome in change.relearned]
    elif relearn and change.later:
        lines.append(f"Would be learned again: {', '.join(change.later)}.")
    elif others and others.after < others.before:
        lines.append(
            f"`engrain lessons undo {change.lesson} --relearn` learns {later} again without it."
        )
    data = change.to_dict()
    return Answer({**data, "dry_run": True} if dry_run else data, "\n".join(lines), [change.lesson])


@verb("verify", examples="engrain lessons verify\nengrain lessons verify --json")
def verify(session: Session) -> Answer:
    """Derive every digest again: blobs, lessons, events, weights of all states.

    The exit code is 0 if all agree and 1 if not.
    """
    home = session.home()
    problems = home.verify()
    # What is damaged may not even be listed.
    lessons = [] if problems else home.lessons()
    states = [] if problems else home.ledger.history()
    data = {
        "clean": not problems,
        "lessons": len(lessons),
        "states": len(states),
        "problems": [problem.to_dict() for problem in problems],
    }
    if not problems:
        found = f"{count(len(lessons), 'lesson')}, {count(len(states), 'state')}"
        return Answer(data, f"All digests agree: {found}.")
    lines = [f"{count(len(problems), 'problem')}:"]
    for problem in problems:
        lines.append(f"  {problem.kind} in {problem.where}: {problem.message}")
        if problem.remedy:
            lines.append(f"    {problem.remedy}")
    return Answer(data, "\n".join(lines), [problem.where for problem in problems], 1)
