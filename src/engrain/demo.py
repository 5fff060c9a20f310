"""The story in one command: a conversation is learned, proved, compared and undone exactly."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engrain.bench.life import ask_all, make_stream
from engrain.data.streams import Day
from engrain.exam.life import LifeRun
from engrain.exam.metrics import ProbeHistory
from engrain.exam.panel import run_panel
from engrain.exam.probes import RECALL_KINDS, ProbeResult
from engrain.home import Home
from engrain.learn.learner import Learner
from engrain.learn.recipe import named
from engrain.model.adapter import Adapter

if TYPE_CHECKING:
    from engrain.lesson.asked import OnProgress

SEED = 7
"""Of the made-up life; any other tells another one."""
DAYS = 2
"""The fewest that can show forgetting; each takes about a minute."""
FACTS = 6


@dataclass
class Story:
    """What the demo tells as it goes: sentences, and progress of long work."""

    say: Callable[[str], None]
    on_progress: OnProgress


def run_demo(
    folder: Path | None = None,
    *,
    say: Callable[[str], None] = print,
    on_progress: OnProgress = lambda stage, done, total: None,
    days: int = DAYS,
    overrides: dict[str, Any] | None = None,
    plots: Path | None = None,
) -> dict[str, Any]:
    """Tell the story on a fresh home; gives the figures for ``--json``.

    ``folder`` keeps the home (a temporary one otherwise); ``plots`` gets two PNG files.
    """
    if folder is not None:
        return _tell(folder, Story(say, on_progress), days, overrides, plots or folder)
    with tempfile.TemporaryDirectory(prefix="engrain-demo-") as temporary:
        place = Path(temporary) / "home"
        return _tell(place, Story(say, on_progress), days, overrides, plots or Path.cwd())


def _tell(
    folder: Path, story: Story, days: int, overrides: dict[str, Any] | None, plots: Path
) -> dict[str, Any]:
    began = time.perf_counter()
    stream = make_stream(days=days, facts_per_day=FACTS, seed=SEED)
    with Home.create(folder, overrides=overrides) as home:
        engine = home.served.engine
        panel = home.panel
        history = ProbeHistory([day.id for day in stream])
        untaught = ask_all(engine, stream)
        history.add_day(untaught)
        start = home.asked.origin()
        before = _share(history, 0, [stream[0].id])
        story.say(_opening(stream[0], home))
        story.say(
            f"Asked in other words and without that conversation, it knows {before:.0%} of it."
        )
        outcomes = []
        for number, day in enumerate(stream, start=1):
            outcome = home.learn(day.conversations, on_progress=story.on_progress)
            outcomes.append(outcome)
            history.add_day(ask_all(engine, stream), supersedes=day.supersedes)
            known = _share(history, number, [d.id for d in stream[:number]])
            story.say(
                f"Day {number}: lesson {outcome.lesson.id} {outcome.decision.verdict} in "
                f"{outcome.seconds:.0f} s. Of all told so far it recalls {known:.0%}."
            )
        state = home.served.engine.state_digest
        end = home.asked.known_panel(state) or run_panel(engine, panel)
        told = [day.id for day in stream]
        after, abstention = _share(history, days, told), history.share(("abstention",))
        change = end.change_percent(start)
        sample = _sample(stream, history)
        if sample:
            story.say(sample)

        lessons = [outcome.lesson for outcome in outcomes]
        naive, naive_panel = _naive(home, stream, lessons, untaught, story)
        old = [day.id for day in stream[:-1]]
        naive_old, default_old = _share(naive, days, old), _share(history, days, old)
        naive_change = naive_panel.change_percent(start)
        story.say(
            f"The same lessons learned naively: {naive_old:.0%} of the earlier days' facts are "
            f"left (here: {default_old:.0%}), general loss {naive_change:+.1f}% "
            f"(here: {change:+.1f}%)."
        )
        accepted = [o for o in outcomes if o.accepted]
        undo_equal = False
        if accepted:
            undone = home.undo(accepted[-1].lesson.id)
            undo_equal = undone.state_after == accepted[-1].state_before
            story.say(
                f"Undo of the last lesson: weights {undone.state_before[:12]} -> "
                f"{undone.state_after[:12]}, "
                + ("the very digest before it." if undo_equal else "NOT the digest before it.")
            )
        problems = home.verify()
        story.say(
            "Every digest of the ledger was derived again: "
            + ("all agree." if not problems else f"{len(problems)} problems.")
        )
        files = _plot(plots, history, naive)
        for file in files:
            story.say(f"Plot: {file}")
        right, asked = abstention
        return {
            "recall_before": before,
            "recall_after": after,
            "abstention_after": right / asked if asked else None,
            "panel_change_percent": change,
            "recall_old_facts": default_old,
            "naive_recall_old_facts": naive_old,
            "naive_panel_change_percent": naive_change,
            "undo_digest_equal": undo_equal,
            "verify_problems": len(problems),
            "lessons": [outcome.to_dict() for outcome in outcomes],
            "plots": [str(file) for file in files],
            "seconds": round(time.perf_counter() - began, 1),
        }


def _opening(day: Day, home: Home) -> str:
    told = [
        message.content
        for conversation in day.conversations
        for message in conversation.messages
        if message.role == "user"
    ]
    lines = "\n".join(f"    {line}" for line in told)
    return f"A person tells {home.loaded.source!r}, the model in this home:\n{lines}"


def _sample(stream: Sequence[Day], history: ProbeHistory) -> str:
    """One question of the first day with the answer before and after."""
    probes = {probe.id: probe for day in stream for probe in day.probes}
    first = {r.probe_id: r for r in history.days[0][stream[0].id]}
    for result in history.days[-1][stream[0].id]:
        if result.passed and result.kind in RECALL_KINDS and not first[result.probe_id].passed:
            question = probes[result.probe_id].messages[-1].content
            return (
                f"    Asked: {question}\n"
                f"    before its lesson: {first[result.probe_id].answer}\n"
                f"    now:               {result.answer}"
            )
    return ""


def _share(history: ProbeHistory, day: int, lessons: Sequence[str]) -> float:
    found = [r.passed for name in lessons for r in history.counted(day, name, RECALL_KINDS)]
    return sum(found) / max(1, len(found))


def _naive(
    home: Home,
    stream: Sequence[Day],
    lessons: Sequence[Any],
    untaught: Mapping[str, Sequence[ProbeResult]],
    story: Story,
) -> tuple[ProbeHistory, Any]:
    """Learn the same lessons without protection, in memory; the home is left as it is."""
    served, learner = home.served, Learner(named("naive-lora"))
    history = ProbeHistory([day.id for day in stream])
    adapters: list[Adapter] = []
    history.add_day(untaught)
    with served.base():
        for number, (day, lesson) in enumerate(zip(stream, lessons, strict=True), start=1):
            story.on_progress("naive", number, len(lessons))
            result = learner.run(served.loaded, lesson, earlier=lessons[: number - 1])
            adapters.append(result.adapter)
            served.show(adapters)
            history.add_day(ask_all(served.engine, stream), supersedes=day.supersedes)
        return history, run_panel(served.engine, home.panel, parts=("loss",))


def _plot(folder: Path, history: ProbeHistory, naive: ProbeHistory) -> list[Path]:
    from engrain.exam.life import recall_by_day
    from engrain.exam.plots import plot_matrix, plot_recipes

    folder.mkdir(parents=True, exist_ok=True)
    matrix, recipes = folder / "accuracy-matrix.png", folder / "naive-against-default.png"
    plot_matrix(history.matrix(), matrix)
    runs = [LifeRun("default", 0, history), LifeRun("naive-lora", 0, naive)]
    plot_recipes({run.recipe: recall_by_day([run.matrix]) for run in runs}, recipes)
    return [matrix, recipes]
