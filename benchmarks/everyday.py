"""Everyday talk: does a model read a day's chats, does self-study find it, is it learned?

    python -m benchmarks.everyday view  --model qwen2.5-coder-0.5b --adapter FILE
    python -m benchmarks.everyday study --model ... --days 3
    python -m benchmarks.everyday learn --model ... --days 1

``view`` asks each day's probes after that day's chats; ``study`` counts the items (pairs of
probes) whose answer is the value of a fact of the lesson, and the traps among its values,
and asks the probes with the day's lesson in view instead of its chats;
``learn`` trains a lesson on each day and asks without the chats. The stream is not shipped:
``--stream`` names it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import about, begin, options, print_table, write_json
from engrain.data.lessons import Lesson, Probe
from engrain.data.messages import Message
from engrain.data.streams import Day, read_stream

WORDINGS = 2
"""Wordings of each fact that stand in view of the probes."""
STREAM = Path("../shared/data/everyday/everyday_dev.jsonl")


def in_view(day: Day) -> list[Message]:
    """A day's chats as one conversation."""
    return [message for talk in day.conversations for message in talk.messages]


def items(day: Day) -> dict[str, list[Probe]]:
    """The probes of each thing to learn: those that expect the same answers."""
    found: dict[str, list[Probe]] = {}
    for probe in day.probes:
        if probe.answers and probe.kind != "norm":
            found.setdefault(json.dumps(probe.answers), []).append(probe)
    return found


def chosen(days: Sequence[Day], which: str) -> Sequence[Day]:
    """The first days, or those that are named by their numbers."""
    if "," in which:
        return [days[int(number) - 1] for number in which.split(",") if number]
    return days[: int(which)] if which else days


def counted(marks: Sequence[tuple[str, bool]]) -> dict[str, Any]:
    """Shares by kind, with exact intervals."""
    from engrain.exam.statistics import clopper_pearson

    figures = {}
    for kind in sorted({kind for kind, _ in marks}):
        own = [passed for name, passed in marks if name == kind]
        interval = clopper_pearson(sum(own), len(own))
        figures[kind] = {"right": sum(own), "asked": len(own), "interval": interval.to_dict()}
    return figures


def view(engine: Any, days: Sequence[Day]) -> dict[str, Any]:
    """Ask each day's probes with its chats in view."""
    from engrain.exam.probes import passes

    marks, wrong, began = [], [], time.perf_counter()
    for day in days:
        prompts = [[*in_view(day), *probe.messages] for probe in day.probes]
        # Prompts of one prefix lie side by side, so it is computed once.
        answers = engine.generate(prompts, max_new_tokens=32, batch_size=32, exact=False)
        for probe, answer in zip(day.probes, answers, strict=True):
            passed = passes(probe, answer)
            marks.append((probe.kind, passed))
            if not passed:
                question = probe.messages[-1].content
                wrong.append([probe.id, probe.kind, question, list(probe.answers), answer])
        print(
            f"  {day.id}: {sum(p for _, p in marks)} of {len(marks)}", file=sys.stderr, flush=True
        )
    return {"figures": counted(marks), "wrong": wrong, "seconds": time.perf_counter() - began}


def study(engine: Any, days: Sequence[Day], args: Any) -> tuple[dict[str, Any], list[Any]]:
    """Make each day's lesson and look for the stream's items and traps among its facts."""
    from engrain.config import ModelConfig
    from engrain.exam.probes import holds, passes
    from engrain.lesson import writers
    from engrain.study.checks import BELIEF
    from engrain.study.lesson import make_lesson
    from engrain.study.trial import leaning

    records, lessons = [], []
    belief = leaning(engine) if args.adapter else BELIEF
    chosen_writer = writers.kept(args.writer, ModelConfig(dtype=args.dtype))
    for day in days:
        with chosen_writer.opened() as writer:
            preview = make_lesson(
                engine,
                day.conversations,
                earlier=lessons,
                name=day.id,
                seed=args.seed,
                effort=args.effort,
                writer=writer,
                taught=bool(args.adapter),
                belief=belief,
            )
        if preview.proposed:
            lessons.append(preview.proposed)
            if args.lessons:
                args.lessons.mkdir(parents=True, exist_ok=True)
                file = args.lessons / f"{day.id}.json"
                file.write_text(json.dumps(preview.proposed.to_dict(), ensure_ascii=False))
        told = [
            text
            for text in (preview.proposed.texts if preview.proposed else ())
            if text.kind == "fact"
        ]
        found, missed = [], []
        for answers, probes in items(day).items():
            hit = any(passes(probes[0], text.target) for text in told)
            (found if hit else missed).append(json.loads(answers)[0])
        traps = [
            fact.value
            for fact in preview.facts
            for probe in day.probes
            if probe.kind == "abstention"
            and any(holds(fact.value, wrong) for wrong in probe.not_answers)
            and not any(holds(fact.value, a) for p in day.probes for a in p.answers)
        ]
        records.append(
            {
                "day": day.id,
                "found": found,
                "missed": missed,
                "traps": sorted(set(traps)),
                "seconds": preview.seconds,
                "preview": preview.to_dict(),
                "lesson_texts": [
                    [t.kind, t.question, t.target]
                    for t in (preview.proposed.texts if preview.proposed else ())
                ],
            }
        )
        print(
            f"  {day.id}: {len(found)} of {len(found) + len(missed)}; missed {missed}; "
            f"traps {traps}; {preview.seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    total = sum(len(r["found"]) + len(r["missed"]) for r in records)
    figures = {
        "items": {"found": sum(len(r["found"]) for r in records), "asked": total},
        "facts": sum(len(r["preview"]["facts"]) for r in records),
        "traps": sum(len(r["traps"]) for r in records),
        "texts": sum(len(r["lesson_texts"]) for r in records),
        "belief": belief,
        "seconds_a_day": sum(r["seconds"] for r in records) / len(records),
    }
    return {"figures": figures, "days": records}, lessons


def from_lessons(engine: Any, days: Sequence[Day], lessons: Sequence[Lesson]) -> dict[str, Any]:
    """Ask each day's probes with its lesson's own questions and answers in view, not its chats.

    What can't be answered from them can't be answered by what learned them: that a value is
    somewhere in a lesson does not say that it is asked for.
    """
    from engrain.exam.probes import passes

    marks, wrong = [], []
    by_name = {lesson.id: lesson for lesson in lessons}
    for day in days:
        shown: list[Message] = []
        groups: dict[str, int] = {}
        for text in by_name[day.id].facts() if day.id in by_name else ():
            groups[text.group] = groups.get(text.group, 0) + 1
            if groups[text.group] <= WORDINGS:
                shown += text.messages[-2:]
        prompts = [[*shown, *probe.messages] for probe in day.probes]
        answers = engine.generate(prompts, max_new_tokens=32, batch_size=32, exact=False)
        for probe, answer in zip(day.probes, answers, strict=True):
            passed = passes(probe, answer)
            marks.append((probe.kind, passed))
            if not passed:
                wrong.append([probe.id, probe.kind, probe.messages[-1].content, answer])
    return {"figures": counted(marks), "wrong": wrong}


def kept_lessons(days: Sequence[Day], args: Any) -> tuple[dict[str, Any], list[Any]] | None:
    """The lessons of an earlier study, where the folder holds one for each day."""
    files = [args.lessons / f"{day.id}.json" for day in days] if args.lessons else []
    if not files or not all(file.exists() for file in files):
        return None
    lessons = [Lesson.from_dict(json.loads(file.read_text())) for file in files]
    return {"figures": {"texts": sum(len(lesson.texts) for lesson in lessons)}}, lessons


def learn(
    loaded: Any, engine: Any, days: Sequence[Day], lessons: Sequence[Any], args: Any
) -> dict[str, Any]:
    """Train each day's lesson after those before, and ask all probes told so far, closed book."""
    from engrain.dream.earlier import anchors_beside
    from engrain.exam.panel import load_panel, run_panel
    from engrain.exam.probes import ask
    from engrain.learn.fold import fold
    from engrain.learn.learner import Learner
    from engrain.learn.recipe import named
    from engrain.model.digest import tensor_digest

    recipe = named(args.recipe)
    settings = {}
    for pair in args.set:
        key, _, value = pair.partition("=")
        settings[key] = json.loads(value) if value[:1] in "0123456789-.[t{f" else value
    recipe = recipe.with_settings(settings)
    kept, adapters, rows = [], [], []
    manners = list(args.manners_adapters)
    # As in a home: what is kept is the base with its manners, not the base.
    loaded.ground = lambda: fold(loaded.base_weights(), manners)
    panel = load_panel()
    unknown = tuple(q for q in panel.questions if q.part == "abstention")
    panel = replace(panel, choices=(), questions=unknown)
    untaught = run_panel(engine, panel)
    for number, (day, lesson) in enumerate(zip(days, lessons, strict=False), start=1):
        result = Learner(recipe).run(
            loaded,
            lesson,
            earlier=kept,
            adapters=adapters,
            anchors=anchors_beside([*kept, lesson]),
            contexts=engine.context,
            seed=args.seed,
        )
        kept.append(lesson)
        adapters.append(result.adapter)
        weights = fold(loaded.base_weights(), [*manners, *adapters])
        loaded.set_weights(weights)
        engine.set_state(tensor_digest(weights))
        gone = {name for d in days[:number] for name in d.supersedes}
        probes = [p for d in days[:number] for p in d.probes if p.id not in gone]
        results = ask(engine, probes)
        taught = run_panel(engine, panel)
        today = {p.id for p in day.probes}
        marks = [(r.kind, r.passed) for r in results]
        rows.append(
            {
                "day": day.id,
                "texts": len(lesson.texts),
                "seconds": result.seconds,
                "peak_memory_bytes": result.peak_memory_bytes,
                "losses": [round(x, 3) for x in result.losses],
                "panel_percent": taught.change_percent(untaught),
                "panel_abstention": taught.parts["abstention"].to_dict(),
                "all": counted(marks),
                "today": counted([(r.kind, r.passed) for r in results if r.probe_id in today]),
                "answers": [[r.probe_id, r.kind, r.passed, r.answer] for r in results],
            }
        )
        print(
            f"  {day.id}: {result.seconds:.0f} s, {result.steps} steps,",
            f"panel {rows[-1]['panel_percent']:+.1f}%,",
            {k: f"{v['right']}/{v['asked']}" for k, v in rows[-1]["today"].items()},
            file=sys.stderr,
            flush=True,
        )
    return {"days": rows}


def main() -> int:
    """Parse the arguments, run one part, write its JSON."""
    parser = options(__doc__, "everyday")
    parser.add_argument("part", choices=("view", "study", "learn"))
    parser.add_argument("--stream", type=Path, default=STREAM)
    parser.add_argument("--days", default="", help="how many, or which: 2,7,9 (default: all)")
    parser.add_argument(
        "--lessons", type=Path, help="folder of lessons: read from there, else written there"
    )
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--adapter", type=Path, action="append", default=[], help="lesson zero")
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--writer", default="self", help="who asks: self, a model, an address")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    from engrain.learn.fold import fold
    from engrain.model.adapter import Adapter
    from engrain.model.engine import Engine
    from engrain.model.loading import load_model

    with tempfile.TemporaryDirectory() as folder:
        loaded = load_model(begin(args, Path(folder)), dtype=args.dtype)
    args.manners_adapters = [Adapter.from_bytes(file.read_bytes()) for file in args.adapter]
    loaded.set_weights(fold(loaded.base_weights(), args.manners_adapters))
    engine = Engine(loaded)
    days = chosen(read_stream(args.stream), args.days)
    if args.part == "view":
        result = view(engine, days)
        rows = [[k, f"{v['right']} of {v['asked']}"] for k, v in result["figures"].items()]
    else:
        result, lessons = kept_lessons(days, args) or study(engine, days, args)
        rows = [[k, str(v)] for k, v in result["figures"].items()]
        result["from_lessons"] = from_lessons(engine, days, lessons)
        rows += [
            [f"{kind}, the lesson in view", f"{v['right']} of {v['asked']}"]
            for kind, v in result["from_lessons"]["figures"].items()
        ]
        if args.part == "learn":
            result["learned"] = learn(loaded, engine, days, lessons, args)
            last = result["learned"]["days"][-1]["all"]
            rows += [[k, f"{v['right']} of {v['asked']}"] for k, v in last.items()]
    manners = args.__dict__.pop("manners_adapters")
    args.adapter = [str(file) for file in args.adapter]
    args.lessons = args.lessons and str(args.lessons)
    record = {**about(args), "manners": len(manners), "part": args.part, **result}
    print_table(f"everyday, {args.part}", ("what", "found"), rows)
    write_json(args.json, record)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
