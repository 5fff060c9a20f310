"""How much of a conversation self-study turns into a lesson, and how much of that is right.

Conversations come from the fact generator, so the truth is known (from its development set, to mend
self-study on, or from the held-out half, to report): a fact is
*covered* if at least four training wordings have its value as their target; *precision* is the
share of training texts whose target holds the value of the fact that the question asks for.

    python -m benchmarks.self_study --model FOLDER --conversations 10 --json out.json
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engrain.data.facts import Attribute, Fact, FactSampler, Verb, told_conversation
from engrain.data.messages import Conversation
from engrain.dream.self_study import Study, study
from engrain.exam.probes import holds, says_unknown
from engrain.study.wording import content, owners, stem
from training.pocket.halves import HALVES

COVERED = 4
"""Right training wordings from which a fact counts as covered."""


def asks_for(fact: Fact, question: str, target: str) -> bool:
    """Whether a question with its answer is about a fact: its relation and its owner."""
    text = content(f"{question} {target}")
    noun = {stem(word) for word in fact.relation.noun.split()}
    about = content(fact.relation.noun) or noun
    missing = about - text
    limit = 0 if isinstance(fact.relation, Attribute) else len(about) // 2
    if len(missing) > limit:
        return False
    if fact.owner.sort == "self" and isinstance(fact.relation, Verb):
        verb, *_ = fact.relation.noun.split()  # "what my uncle adores" is not mine
        own = rf"\bI (?:am |was )?(?:{re.escape(verb)}|{re.escape(fact.relation.form or verb)})\b"
        own += rf"|\b(?:do|did|am|was) I {re.escape(verb)}\b"
        return re.search(own, question) is not None
    if fact.owner.sort == "self":
        return not owners(question) - {w for n in [fact.relation.noun] for w in owners(n)}
    return content(fact.owner.name) <= content(question)


def judge(facts: Sequence[Fact], old: dict[str, str], result: Study) -> dict[str, Any]:
    """Score one study against the facts that were told."""
    right: dict[str, int] = {fact.value: 0 for fact in facts}
    wrong: list[tuple[str, str]] = []
    for text in result.texts:
        if text.kind != "fact":
            continue
        fitting = [
            fact
            for fact in facts
            if holds(text.target, fact.value) and asks_for(fact, text.question, text.target)
        ]
        if fitting and not any(holds(text.target, value) for value in old.values()):
            right[fitting[0].value] += 1
        else:
            wrong.append((text.question, text.target))
    probes_wrong = [
        (probe.messages[-1].content, probe.answers[0])
        for probe in result.probes
        if not any(
            (holds(fact.value, probe.answers[0]) or holds(probe.answers[0], fact.value))
            and asks_for(fact, probe.messages[-1].content, fact.answer())
            for fact in facts
        )
    ]
    contrasts = [text for text in result.texts if text.kind == "contrast"]
    harmful = [
        text.question
        for text in contrasts
        for fact in facts
        if content(text.question) >= content(fact.relation.noun) > set()
        and asks_for(fact, text.question, "")
    ]
    total = sum(right.values()) + len(wrong)
    return {
        "covered": sum(count >= COVERED for count in right.values()) / len(facts),
        "found": sum(count > 0 for count in right.values()) / len(facts),
        "precision": sum(right.values()) / total if total else 1.0,
        "texts": total,
        "wordings_per_fact": total / len(facts),
        "probes": len(result.probes),
        "probe_precision": 1 - len(probes_wrong) / max(1, len(result.probes)),
        "contrast": len(contrasts),
        "contrast_per_text": len(contrasts) / max(1, total),
        "contrast_unknown": sum(says_unknown(text.target) for text in contrasts)
        / max(1, len(contrasts)),
        "contrast_harmful": len(harmful),
        "seconds": result.seconds,
        "asked": result.asked,
        "wrong": wrong,
        "probes_wrong": probes_wrong,
        "harmful": harmful,
        "missed": [fact.answer() for fact in facts if right[fact.value] < COVERED],
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Study several conversations and sum up."""
    import torch

    from engrain.model.engine import Engine
    from engrain.model.loading import load_model

    if args.threads:
        torch.set_num_threads(args.threads)
    loaded = load_model(args.model)
    engine = Engine(loaded)
    rows = []
    for number in range(args.conversations):
        sampler = FactSampler(args.seed + number, HALVES[args.half])
        facts = [sampler.fact() for _ in range(args.facts)]
        rng = random.Random(f"self-study:{args.seed + number}")
        corrections = []
        old: dict[str, str] = {}
        for fact in facts[: args.corrections]:
            corrections.append((fact, sampler.value(fact.relation)))
            old[fact.relation.noun] = fact.value
        talk = told_conversation(facts, rng, corrections)
        truth = list(facts)
        for place, (fact, new) in enumerate(corrections):
            truth[place] = Fact(fact.owner, fact.relation, new, fact.wordings)
        conversation = Conversation.from_messages(talk)
        result = study(engine, conversation, seed=args.seed, effort=args.effort)
        row = judge(truth, old, result)
        rows.append(row)
        if args.show:
            show(conversation, result, row)
    figures = [key for key, value in rows[0].items() if isinstance(value, (int, float))]
    return {
        "model": args.model,
        "base_digest": loaded.base_digest,
        "facts": args.facts,
        "corrections": args.corrections,
        "conversations": args.conversations,
        "half": args.half,
        "effort": args.effort,
        "seed": args.seed,
        "mean": {key: round(statistics.mean(row[key] for row in rows), 4) for key in figures},
        "rows": rows,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "when": time.strftime("%Y-%m-%d"),
    }


def show(conversation: Conversation, result: Study, row: dict[str, Any]) -> None:
    """Print one study in full."""
    for message in conversation.messages:
        print(f"   {message.role}: {message.content}")
    for text in result.texts:
        if text.kind != "reading":
            print(f"{text.kind:9}{text.group[:32]:33}{text.question}  ->  {text.target}")
    for probe in result.probes:
        print(
            f"{probe.kind:11}{probe.messages[-1].content}  ->  {probe.answers}"
            f" not {probe.not_answers}"
        )
    for question, reason in result.dropped:
        print(f"  - {question}: {reason}")
    print(json.dumps({k: v for k, v in row.items()}, indent=1, ensure_ascii=False))


def main() -> None:
    """Parse the arguments, run, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--conversations", type=int, default=10)
    parser.add_argument("--facts", type=int, default=6)
    parser.add_argument("--corrections", type=int, default=0)
    parser.add_argument("--half", default="development", choices=("development", "heldout"))
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--show", action="store_true", help="print every study in full")
    args = parser.parse_args()
    result = run(args)
    print(json.dumps(result["mean"], indent=2))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
