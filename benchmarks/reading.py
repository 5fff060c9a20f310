"""Reading: six facts are told in the conversation above; is a question about them answered?

Held-out items come from the package's own half of the fact generator, which no pocket model has
trained on: relations, owners, wordings and values. Trained items come from the other half, which
is part of the repository and not of the package (``training.pocket.generator``). A question asks
for a fact as told (recall), as corrected later (correction), or for a near one that was never told
(abstention). Answers are greedy and scored as everywhere: whole words, no forbidden value.

    python -m benchmarks.reading [--model FOLDER --n 300]
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import about, begin, options, print_table, write_json
from engrain.data.facts import FactSampler, told_conversation
from engrain.data.lessons import Probe, ProbeKind, chat
from engrain.data.messages import Message

KINDS: tuple[ProbeKind, ...] = ("recall",) * 12 + ("abstention",) * 5 + ("correction",) * 3
"""Of every twenty items."""
BARS = {"trained": 0.95, "held-out": 0.90}
CHUNK = 64
SHOWN = 40
"""Wrong answers kept in the JSON, of each half."""


def heldout_items(n: int, facts: int, seed: int) -> list[Probe]:
    """Items of the held-out half, each with a person of its own."""
    return [_item(number, facts, seed) for number in range(n)]


def _item(number: int, count: int, seed: int) -> Probe:
    rng = random.Random(f"reading:{seed}:{number}")
    sampler = FactSampler(rng.getrandbits(40))
    facts = [sampler.fact() for _ in range(count)]
    kind = KINDS[number % len(KINDS)]
    asked = facts[rng.randrange(count)]
    others = [fact.value for fact in facts if fact is not asked]
    answers, wrong, corrections = asked.answers, others, []
    question = asked.question(rng)
    if kind == "correction":
        new = replace(asked, value=sampler.value(asked.relation))
        corrections = [(asked, new.value)]
        answers, wrong = new.answers, [asked.value]
    elif kind == "abstention":
        question = sampler.near_miss(asked, rng).question(rng)
        answers, wrong = [], [fact.value for fact in facts]
    talk = told_conversation(facts, rng, corrections)
    messages = (*(Message(m["role"], m["content"]) for m in talk), *chat(question))
    return Probe(f"held-out-{number}", kind, messages, tuple(answers), tuple(wrong))


def trained_items(n: int, facts: int, seed: int) -> list[Probe]:
    """Items of the half that the pocket model is trained on; none without the repository."""
    try:
        from training.pocket.generator import exam
    except ImportError:
        return []
    items = exam(random.Random(seed), relations="train", facts=facts, n=n)
    return [Probe.from_dict({"id": f"trained-{i}", **item}) for i, item in enumerate(items)]


def score(engine: Any, items: Sequence[Probe], name: str) -> dict[str, Any]:
    """Ask all items; fractions with exact intervals, all together and by kind."""
    from engrain.exam.probes import ask
    from engrain.exam.statistics import clopper_pearson

    began, results = time.perf_counter(), []
    for at in range(0, len(items), CHUNK):
        results += ask(engine, items[at : at + CHUNK])
        print(f"  {name}: {len(results)} of {len(items)}", end="\r", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    figures: dict[str, Any] = {}
    for kind in ("all", *dict.fromkeys(KINDS)):
        marks = [r.passed for r in results if kind in ("all", r.kind)]
        if marks:
            interval = clopper_pearson(sum(marks), len(marks))
            figures[kind] = {
                "right": sum(marks),
                "asked": len(marks),
                "share": sum(marks) / len(marks),
                "interval": interval.to_dict(),
            }
    wrong = [
        {
            "kind": probe.kind,
            "question": probe.messages[-1].content,
            "answers": list(probe.answers),
            "said": result.answer,
        }
        for probe, result in zip(items, results, strict=True)
        if not result.passed
    ]
    seconds = time.perf_counter() - began
    return {"figures": figures, "seconds": seconds, "wrong": wrong[:SHOWN]}


def main() -> int:
    """Parse the arguments, ask, write; 0 if both bars are reached."""
    parser = options(__doc__, "reading", seed=11)
    parser.add_argument("--n", type=int, default=400, help="items of each half")
    parser.add_argument("--facts", type=int, default=6, help="facts told in each conversation")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = begin(args, Path(folder))
        from engrain.model.engine import Engine
        from engrain.model.loading import load_model

        loaded = load_model(source)
    engine = Engine(loaded)
    halves = {
        "trained": trained_items(args.n, args.facts, args.seed),
        "held-out": heldout_items(args.n, args.facts, args.seed),
    }
    found = {name: score(engine, items, name) for name, items in halves.items() if items}
    reached = {name: half["figures"]["all"]["share"] >= BARS[name] for name, half in found.items()}
    record = {
        **about(args, base_digest=loaded.base_digest),
        "bars": BARS,
        "reached": reached,
        "relations": found,
    }
    path = write_json(args.json, record)
    rows = [
        (
            name,
            kind,
            figure["asked"],
            f"{figure['share']:.1%}",
            f"{figure['interval']['low']:.1%} to {figure['interval']['high']:.1%}",
            (f">= {BARS[name]:.0%}: " + ("yes" if reached[name] else "NO")) * (kind == "all"),
        )
        for name, half in found.items()
        for kind, figure in half["figures"].items()
    ]
    print_table(
        f"Reading {args.facts} facts in context: {args.model}",
        ("relations", "kind", "asked", "right", "95% interval", "bar"),
        rows,
    )
    if "trained" not in found:
        print("\nThe trained half is left out: it needs the repository's training folder.")
    print(f"\n{path}")
    return 0 if all(reached.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
