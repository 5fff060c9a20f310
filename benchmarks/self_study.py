"""How much of a conversation self-study turns into a lesson, and how much of that is right.

Conversations come from the fact generator, so the truth is known (from its development set, to mend
self-study on, or from the held-out half, to report): a fact is *found* if a training wording that
asks for it has its value as the target, *covered* if at least four do; *precision* is the share of
training texts whose target holds the value of the fact that the question asks for. *Traps* are
sentences that say something and tell nothing ("Hypothetically speaking, my dog is Gorla."); one is
learned if a text has its value as the target. With the conversation in view, *reads* and *abstains*
are the right answers about told facts and about near misses.

Two ways are compared: ``study``, the model's own lists (:mod:`engrain.study`), and ``rules``, those
of :mod:`engrain.dream`.

    python -m benchmarks.self_study --model FOLDER --way study --traps 2 --json out.json
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
from engrain.data.lessons import Lesson, Probe, TrainingText
from engrain.data.messages import Conversation, Message
from engrain.exam.probes import holds, says_unknown
from engrain.study.reader import in_context
from engrain.study.wording import content, owners, stem
from training.pocket import development
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


def judge(
    facts: Sequence[Fact], old: Sequence[str], traps: Sequence[Fact], lesson: Lesson | None
) -> dict[str, Any]:
    """Score a lesson against the facts that were told; ``old`` values were corrected."""
    texts: Sequence[TrainingText] = lesson.texts if lesson else ()
    probes: Sequence[Probe] = lesson.probes if lesson else ()
    right: dict[str, int] = {fact.value: 0 for fact in facts}
    wrong: list[tuple[str, str]] = []
    for text in texts:
        if text.kind != "fact":
            continue
        fitting = [
            fact
            for fact in facts
            if holds(text.target, fact.value) and asks_for(fact, text.question, text.target)
        ]
        if fitting and not any(holds(text.target, value) for value in old):
            right[fitting[0].value] += 1
        else:
            wrong.append((text.question, text.target))
    probes_wrong = [
        (probe.messages[-1].content, probe.answers[0])
        for probe in probes
        if not any(
            (holds(fact.value, probe.answers[0]) or holds(probe.answers[0], fact.value))
            and asks_for(fact, probe.messages[-1].content, fact.answer())
            for fact in facts
        )
    ]
    contrasts = [text for text in texts if text.kind == "contrast"]
    harmful = [
        text.question
        for text in contrasts
        for fact in facts
        if content(text.question) >= content(fact.relation.noun) > set()
        and asks_for(fact, text.question, "")
    ]
    learned = {trap.value for trap in traps for _, target in wrong if holds(target, trap.value)}
    total = sum(right.values()) + len(wrong)
    return {
        "covered": sum(count >= COVERED for count in right.values()) / len(facts),
        "found": sum(count > 0 for count in right.values()) / len(facts),
        "precision": sum(right.values()) / total if total else 1.0,
        "traps_learned": len(learned) / max(1, len(traps)),
        "texts": total,
        "wordings_per_fact": total / len(facts),
        "probes": len(probes),
        "probe_precision": 1 - len(probes_wrong) / max(1, len(probes)),
        "contrast": len(contrasts),
        "contrast_per_text": len(contrasts) / max(1, total),
        "contrast_unknown": sum(says_unknown(text.target) for text in contrasts)
        / max(1, len(contrasts)),
        "contrast_harmful": len(harmful),
        "wrong": wrong,
        "probes_wrong": probes_wrong,
        "harmful": harmful,
        "missed": [fact.answer() for fact in facts if right[fact.value] < COVERED],
    }


def talk_of(args: argparse.Namespace, number: int) -> tuple[Conversation, dict[str, Any]]:
    """A conversation, and what is true after it."""
    sampler = FactSampler(args.seed + number, HALVES[args.half])
    facts = [sampler.fact() for _ in range(args.facts)]
    rng = random.Random(f"self-study:{args.seed + number}")
    corrections = [(fact, sampler.value(fact.relation)) for fact in facts[: args.corrections]]
    messages = told_conversation(facts, rng, corrections)
    for place, (fact, new) in enumerate(corrections):
        facts[place] = Fact(fact.owner, fact.relation, new, fact.wordings)
    traps = [sampler.near_miss(fact) for fact in rng.sample(facts, min(args.traps, len(facts)))]
    turns = [at for at, message in enumerate(messages) if message["role"] == "user"]
    for trap in traps:
        said = trap.fill(development.TRAPS[int(rng.random() * len(development.TRAPS))])
        # The same message tells something, or nothing.
        messages[turns[int(rng.random() * len(turns))]]["content"] += f" {said}"
    truth = {
        "facts": facts,
        "old": [fact.value for fact, _ in corrections],
        "traps": traps,
        "told": [(fact.question(rng), fact.value) for fact in facts],
        "near": [sampler.near_miss(fact).question(rng) for fact in facts],
    }
    return Conversation.from_messages(messages), truth


def reads(engine: Any, conversation: Conversation, truth: dict[str, Any]) -> dict[str, float]:
    """Right answers about what was told and what was not, with the conversation in view."""
    asked = [question for question, _ in truth["told"]] + truth["near"]
    prompts: list[list[Message]] = [in_context(conversation.messages, text) for text in asked]
    answers = engine.generate(prompts, max_new_tokens=32)
    pairs = zip(truth["told"], answers, strict=False)
    read = [holds(answer, value) for (_, value), answer in pairs]
    never = [says_unknown(answer) for answer in answers[len(read) :]]
    return {"reads": sum(read) / len(read), "abstains": sum(never) / len(never)}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Study several conversations and sum up."""
    import torch

    from engrain.model.engine import Engine
    from engrain.model.loading import load_model
    from engrain.study.lesson import make_lesson

    make: Any = make_lesson
    if args.way == "rules":
        from engrain.dream.lesson import make_lesson as make
    if args.threads:
        torch.set_num_threads(args.threads)
    loaded = load_model(args.model)
    engine = Engine(loaded)
    rows = []
    for number in range(args.conversations):
        conversation, truth = talk_of(args, number)
        began = time.perf_counter()
        preview = make(engine, [conversation], name="studied", seed=args.seed, effort=args.effort)
        seconds = time.perf_counter() - began
        row = judge(truth["facts"], truth["old"], truth["traps"], preview.proposed)
        rows.append(row | reads(engine, conversation, truth) | {"seconds": seconds})
        if args.show:
            show(conversation, preview, rows[-1])
    figures = [key for key, value in rows[0].items() if isinstance(value, (int, float))]
    return {
        "model": args.model,
        "base_digest": loaded.base_digest,
        "way": args.way,
        "facts": args.facts,
        "corrections": args.corrections,
        "traps": args.traps,
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


def show(conversation: Conversation, preview: Any, row: dict[str, Any]) -> None:
    """Print one study in full."""
    for message in conversation.messages:
        print(f"   {message.role}: {message.content}")
    lesson = preview.proposed
    for text in lesson.texts if lesson else ():
        if text.kind != "reading":
            print(f"{text.kind:9}{text.group[:32]:33}{text.question}  ->  {text.target}")
    for probe in lesson.probes if lesson else ():
        print(
            f"{probe.kind:11}{probe.messages[-1].content}  ->  {probe.answers}"
            f" not {probe.not_answers}"
        )
    for question, reason in preview.questions:
        print(f"  - {question}: {reason}")
    print(json.dumps({k: v for k, v in row.items()}, indent=1, ensure_ascii=False))


def main() -> None:
    """Parse the arguments, run, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--conversations", type=int, default=10)
    parser.add_argument("--facts", type=int, default=6)
    parser.add_argument("--corrections", type=int, default=0)
    parser.add_argument("--traps", type=int, default=0, help="said and not told")
    parser.add_argument("--way", default="study", choices=("study", "rules"))
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
