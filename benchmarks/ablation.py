"""What each part of a recipe buys: the learner alone, on lessons whose texts are known to be right.

    python benchmarks/ablation.py --days 5 --variant default --variant no-anchor --json FILE

Self-study is left out, so that its mistakes don't blur the comparison: each fact comes in some of
the wordings of the development set (not the held-out one: recipes are tuned here), and is asked in
others. Contrast questions are near misses with the untaught model's
own closed-book answers.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engrain.data.facts import Fact, FactSampler, told_conversation
from engrain.data.lessons import Lesson, Probe, TrainingText, chat
from engrain.data.messages import Message
from engrain.dream.earlier import anchors_beside
from engrain.exam.panel import load_panel, run_panel
from engrain.exam.probes import ask
from engrain.learn.fold import fold
from engrain.learn.learner import Learner
from engrain.learn.recipe import Recipe, named
from engrain.model.engine import Engine
from engrain.model.loading import load_model
from engrain.model.threads import set_threads
from training.pocket.exams import exam
from training.pocket.halves import DEVELOPMENT

DEFAULT = named("default")
VARIANTS: dict[str, Recipe] = {
    "default": DEFAULT,
    "naive-lora": named("naive-lora"),
    "naive-full": named("naive-full"),
    "no-anchor": replace(DEFAULT, name="no-anchor", regularization=()),
    "no-reservoir": replace(DEFAULT, name="no-reservoir", replay=DEFAULT.replay[1:]),
    "no-dream": replace(DEFAULT, name="no-dream", replay=DEFAULT.replay[:1]),
}


def lesson_of(
    name: str,
    facts: list[Fact],
    sampler: FactSampler,
    engine: Engine,
    rng: random.Random,
    contrast: int,
) -> tuple[Lesson, list[Probe], list[Probe]]:
    """A lesson, its probes in other wordings, and abstention probes on near misses."""
    texts: list[TrainingText] = []
    probes: list[Probe] = []
    near: list[Fact] = []
    chats = told_conversation(facts, rng)
    context = tuple(Message(m["role"], m["content"]) for m in chats)
    for place, fact in enumerate(facts):
        questions: list[str] = []
        while len(questions) < 8 and len(questions) < len(set(questions)) + 1:
            question = fact.question(rng, avoid=questions)
            if question in questions:
                break
            questions.append(question)
        group = f"{fact.key}: {fact.value}"
        answer = fact.answer()
        texts += [TrainingText(chat(q, answer), "fact", group) for q in questions[2:]]
        reading = (*context, *chat(questions[2], answer))
        texts.append(TrainingText(reading, "reading", group))
        probes += [
            Probe(f"{name}-{place}-{i}", "recall", chat(q), tuple(fact.answers))
            for i, q in enumerate(questions[:2])
        ]
        near += [sampler.near_miss(fact) for _ in range(1 + contrast)]
    # One near miss of each fact is asked afterwards, the others are trained on.
    near = near[:: 1 + contrast] + [n for i, n in enumerate(near) if i % (1 + contrast)]
    asked = [fact.question(rng) for fact in near]
    with engine.untaught():
        answers = engine.generate([chat(q) for q in asked], max_new_tokens=32)
    held = len(facts)
    texts += [
        TrainingText(chat(q, a), "contrast")
        for q, a in zip(asked[held:], answers[held:], strict=True)
    ]
    unknown = [Probe(f"{name}-u{i}", "abstention", chat(q)) for i, q in enumerate(asked[:held])]
    return Lesson(name, name, tuple(texts)), probes, unknown


READING = {
    kind: [
        Probe.from_dict({"id": f"{kind}-{i}", **item})
        for i, item in enumerate(exam(random.Random(5), "development", 6, 100))
        if item["kind"] == kind
    ]
    for kind in ("recall", "abstention", "correction")
}


def reads(engine: Engine) -> dict[str, float]:
    """Right answers about what stands in the context, by kind."""
    return {
        kind: sum(r.passed for r in ask(engine, probes)) / len(probes)
        for kind, probes in READING.items()
    }


def run(recipe: Recipe, arguments: argparse.Namespace, seed: int) -> Mapping[str, Any]:
    """One recipe over the days."""
    loaded = load_model(arguments.model)
    engine = Engine(loaded)
    panel = load_panel().smaller({"capability": 0, "format": 0, "arithmetic": 12})
    before, reads_before = run_panel(engine, panel), reads(engine)
    sampler, rng = FactSampler(1000 + seed, DEVELOPMENT), random.Random(seed)
    base, adapters, lessons = loaded.base_weights(), [], []
    probes: dict[str, list[Probe]] = {}
    unknown: list[Probe] = []
    rows, seconds = [], []
    for day in range(1, arguments.days + 1):
        facts = [sampler.fact() for _ in range(arguments.facts)]
        lesson, asked, never = lesson_of(
            f"d{day:02d}", facts, sampler, engine, rng, arguments.contrast
        )
        probes[lesson.id] = asked
        unknown += never
        if day == 1:
            first = ask(engine, [*asked, *never])
            known = sum(r.passed for r in first[: len(asked)]) / len(asked)
            abstains_before = sum(r.passed for r in first[len(asked) :]) / len(never)
            print(f"before day 1: recall {known:.2f}, abstains {abstains_before:.2f}", flush=True)
        beside = anchors_beside([*lessons, lesson])
        result = Learner(recipe).run(
            loaded, lesson, earlier=lessons, adapters=adapters, anchors=beside, seed=seed
        )
        seconds.append(result.seconds)
        adapters.append(result.adapter)
        lessons.append(lesson)
        loaded.set_weights(fold(base, adapters))
        engine.set_state(f"day {day}")
        rows.append(
            {name: sum(r.passed for r in ask(engine, p)) / len(p) for name, p in probes.items()}
        )
        abstains = ask(engine, unknown)
        print(
            f"{recipe.name} seed {seed} day {day}: "
            f"recall {sum(rows[-1].values()) / len(rows[-1]):.2f} "
            f"({' '.join(f'{v:.2f}' for v in rows[-1].values())}) "
            f"abstains {sum(r.passed for r in abstains) / len(abstains):.2f} "
            f"{result.seconds:.1f} s, {result.steps} steps, loss {result.losses[-1]:.3f}",
            flush=True,
        )
    after, reads_after = run_panel(engine, panel), reads(engine)
    found = {
        "reading_before": reads_before,
        "reading_after": reads_after,
        "recall_before": known,
        "abstention_before": abstains_before,
        "recall": sum(rows[-1].values()) / len(rows[-1]),
        "abstention": sum(r.passed for r in abstains) / len(abstains),
        "panel_change_percent": after.change_percent(before),
        "panel_before": before.figures(),
        "panel_after": after.figures(),
        "rows": rows,
        "seconds": seconds,
        "recipe": recipe.to_dict(),
    }
    print(
        f"{recipe.name} seed {seed}: panel {found['panel_change_percent']:+.2f}%, in context "
        + ", ".join(f"{k} {v:.2f}->{reads_after[k]:.2f}" for k, v in reads_before.items())
        + "; parts "
        + ", ".join(f"{k} {before.figures()[k]:.2f}->{v:.2f}" for k, v in after.figures().items()),
        flush=True,
    )
    return found


def _value(text: str) -> Any:
    """A number where it reads as one, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def main() -> None:
    """Run the variants and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--variant", action="append", choices=sorted(VARIANTS))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--days", type=int, default=5)
    parser.add_argument("--facts", type=int, default=6)
    parser.add_argument("--contrast", type=int, default=16, help="near misses for each fact")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    set_threads(arguments.threads or None)
    settings = dict(pair.split("=", 1) for pair in arguments.set)
    changes = {key: _value(text) for key, text in settings.items()}
    began = time.perf_counter()
    results = {
        name: [
            run(VARIANTS[name].with_settings(changes), arguments, seed)
            for seed in range(arguments.seed, arguments.seed + arguments.seeds)
        ]
        for name in arguments.variant or ["default"]
    }
    if arguments.json:
        from benchmarks.common import about, write_json

        record = {**about(arguments), "settings": changes, "results": results}
        write_json(arguments.json, record | {"seconds": time.perf_counter() - began})


if __name__ == "__main__":
    main()
