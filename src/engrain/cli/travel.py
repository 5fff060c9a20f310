"""``engrain lessons export|import|diff`` and ``engrain export``: lessons leave and arrive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engrain.cli.lessons import Lesson, said, short
from engrain.cli.outcomes import REFUSED, sentence
from engrain.cli.session import Answer, DryRun, Session, count, resumable, verb

if TYPE_CHECKING:
    from engrain.lesson.told import Difference
    from engrain.lesson.travel import Arrival

SHOWN = 3
"""Questions answered otherwise that an export prints."""


@verb("export", examples="engrain lessons export last cheese.lesson")
def export_lesson(
    session: Session,
    lesson: Lesson,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
) -> Answer:
    """Write a lesson into one file: texts, probes, adapter, recipe, digests.

    Another home of the same base can import it. Conversations stay here; the texts that were
    learned from them go along.
    """
    portable = session.home().door.export_lesson(lesson, file)
    size, held = file.stat().st_size, portable.lesson
    texts, probes = (len(held.texts), len(held.probes)) if held else (0, 0)
    data = {
        "file": str(file),
        "bytes": size,
        "adapter": portable.adapter_digest,
        "base_digest": portable.base_digest,
        "texts": texts,
        "probes": probes,
    }
    text = (
        f"{file}: {count(texts, 'text')}, {count(probes, 'probe')}, "
        f"adapter {portable.adapter_digest[:12]}, {size / 1e6:.1f} MB. "
        f"For homes of the base {portable.base_digest[:12]}."
    )
    return Answer(data, text, [str(file)])


@verb("import", examples="engrain lessons import cheese.lesson")
def import_lesson(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What a home exported.")],
    require: Annotated[
        bool, typer.Option("--require", help="Report a refusal of the gate as an error.")
    ] = False,
    dry_run: DryRun = False,
) -> Answer:
    """Take a lesson of another home, examined like any other; nothing is trained.

    It is checked by its digests, tried on a copy of the weights, examined, and served only if the
    gate accepts it; else the exit code is 3. What it tells otherwise than the lessons in force is
    told, and keeps it aside: `engrain lessons enable` takes its side, `undo` yours.
    """
    home = session.home()
    if dry_run:
        from engrain.lesson.travel import arrived

        return _looked_at(session, file, arrived(file, home.ledger))
    with session.progress("Examining") as on_progress, resumable(home):
        outcome = home.door.import_lesson(file, on_progress=on_progress, require=require)
    data = {**outcome.to_dict(), "origin": dict(outcome.decision.origin)}
    code = 0 if outcome.accepted else REFUSED
    return Answer(data, sentence(outcome), [outcome.lesson.id], code)


def _looked_at(session: Session, file: Path, arrival: Arrival) -> Answer:
    """What a file holds, and what of it is told otherwise here; nothing is asked."""
    from engrain.lesson.contradiction import told
    from engrain.lesson.told import facts

    ledger, lesson = session.home().ledger, arrival.lesson
    against = told(lesson, [ledger.lesson(name) for name in ledger.current().lessons])
    taught = facts(lesson)
    data = {
        "dry_run": True,
        "title": lesson.title,
        "facts": taught,
        "probes": len(lesson.probes),
        "recipe": arrival.recipe.name,
        "contradictions": [one.to_dict() for one in against],
    }
    lines = [
        f"{file}: {lesson.title}, {count(len(lesson.texts), 'text')}, "
        f"{count(len(lesson.probes), 'probe')}, learned by {arrival.recipe.name}."
    ]
    lines += [f"  {fact}" for fact in taught]
    lines += [f"  contradicts: {one.words}" for one in against]
    return Answer(data, "\n".join(lines), [lesson.title])


@verb("diff", examples="engrain lessons diff 0kq3 last")
def diff(
    session: Session,
    first: Annotated[str, typer.Argument(metavar="A", help="A lesson, as for `show`.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another lesson.")],
) -> Answer:
    """Tell how two lessons differ: facts, recipe, recall, answers.

    The questions of the one that was learned first are shown with the answers after each of the
    two, as far as both exams asked them.
    """
    from engrain.lesson.told import difference

    home = session.home()
    found = difference(home.show(first), home.show(second))
    return Answer(found.to_dict(), _differing(found), [found.first, found.second])


def _differing(found: Difference) -> str:
    from engrain.exam.report import percent

    lines = [f"Lesson {found.first} (A) and lesson {found.second} (B)"]
    for title, facts in (
        ("Only A teaches", found.only_first),
        ("Only B teaches", found.only_second),
        ("Both teach", found.both),
    ):
        lines += ["", title, *(f"  {fact}" for fact in facts)] if facts else []
    if found.otherwise:
        lines += ["", "Told otherwise"]
        lines += [f"  {one.question}  A: {one.here}  B: {one.there}" for one in found.otherwise]
    lines += ["", "Recall after its own exam"]
    lines += [
        f"  {name}: {percent(value) if value is not None else 'not asked'}"
        for name, value in zip("AB", found.recall, strict=True)
    ]
    if found.recipe:
        lines += ["", "Recipe"]
        lines += [f"  {key}: A {one}  B {two}" for key, (one, two) in found.recipe.items()]
    if found.answers:
        lines += ["", "Questions of the first, answered after each"]
        lines += [line for one in found.answers for line in said(one)]
    return "\n".join(lines)


@verb(
    "export",
    examples="engrain export adapter/ --format peft\n"
    "engrain export model.gguf --format gguf --quant q8_0",
)
def export(
    session: Session,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The folder or file to write.")],
    kind: Annotated[
        str,
        typer.Option("--format", metavar="FORMAT", help="peft, transformers, gguf, or gguf-lora."),
    ] = "peft",
    quant: Annotated[
        str, typer.Option("--quant", metavar="NAME", help="Of a gguf: f16 or q8_0.")
    ] = "",
) -> Answer:
    """Write what is served for other tools, and ask it there what it is asked here.

    peft: the lessons in force as one adapter. transformers: the merged model, a folder. gguf: the
    merged model for llama.cpp, f16 unless --quant says otherwise. gguf-lora: the lessons in force
    as one adapter for llama.cpp, to be used with the base's own GGUF file.
    """
    home = session.home()
    with session.progress("Writing"):
        found = home.door.export(path, kind, quant)
    stored = f", {found.quant}" if found.quant else ""
    lines = [
        f"{found.path}: {found.format}{stored}, {found.nbytes / 1e6:.1f} MB, "
        f"{count(len(found.lessons), 'lesson')} in force, weights {found.state[:12]}.",
        found.answered.words,
    ]
    for question, here, there in found.answered.differing[:SHOWN]:
        lines.append(f"  {question}  here: {short(here)}  there: {short(there)}")
    return Answer(found.to_dict(), "\n".join(lines), [str(found.path)])
