"""Does a lesson carry over to wordings that it was not learned in?

Six facts of the development set, told right, are learned in so many neutral wordings each, with
near misses as contrast. Then they, and other near misses, are asked closed book in every wording
of the development set or of the held-out set. Self-study is left out: this is the learner alone.

    python -m benchmarks.wordings [--wordings 14] [--asked heldout] [--recipe default]
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

from benchmarks.common import about, begin, options, print_table, write_json
from engrain.data import facts_heldout
from engrain.data.facts import Attribute, Fact, FactSampler, told_conversation
from engrain.data.lessons import Lesson, Probe, TrainingText, chat
from engrain.data.messages import Message
from engrain.dream.earlier import anchors_beside
from engrain.dream.frames import NEUTRAL_FRAMES
from engrain.exam.probes import ask
from engrain.exam.statistics import clopper_pearson
from training.pocket import development
from training.pocket.halves import DEVELOPMENT

FACTS = 6
NEAR_MISSES = 8
"""Near misses of each fact that are trained on; one more of each is asked."""


def fitting(fact: Fact, frames: tuple[str, ...]) -> list[str]:
    """The fact's questions in those frames that suit it."""
    noun = isinstance(fact.relation, Attribute)
    return [fact.fill(frame) for frame in frames if noun or "{n}" not in frame.lower()]


def main() -> int:
    """Learn, ask, write."""
    parser = options(__doc__, "wordings")
    parser.add_argument("--wordings", type=int, default=14, help="training wordings of each fact")
    parser.add_argument("--contrast", type=int, default=2, help="wordings of each near miss")
    parser.add_argument("--asked", default="heldout", choices=("development", "heldout"))
    parser.add_argument("--recipe", default="default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = begin(args, Path(folder))
        from engrain.learn.fold import fold
        from engrain.learn.learner import Learner
        from engrain.learn.recipe import named
        from engrain.model.engine import Engine
        from engrain.model.loading import load_model

        loaded = load_model(source)
    engine = Engine(loaded)
    sampler, rng = FactSampler(2000 + args.seed, DEVELOPMENT), random.Random(args.seed)
    facts = [sampler.fact() for _ in range(FACTS)]
    told = tuple(Message(m["role"], m["content"]) for m in told_conversation(facts, rng))
    texts: list[TrainingText] = []
    near: list[Fact] = []
    for fact in facts:
        frames = fitting(fact, NEUTRAL_FRAMES)
        questions = rng.sample(frames, min(args.wordings, len(frames)))
        texts += [TrainingText(chat(q, fact.answer()), "fact", str(fact.key)) for q in questions]
        reading = (*told, *chat(questions[0], fact.answer()))
        texts.append(TrainingText(reading, "reading", str(fact.key)))
        near += [sampler.near_miss(fact) for _ in range(NEAR_MISSES + 1)]
    never = near[:: NEAR_MISSES + 1]
    contrast = [
        question
        for place, miss in enumerate(near)
        if place % (NEAR_MISSES + 1)
        for question in rng.sample(fitting(miss, NEUTRAL_FRAMES), args.contrast)
    ]
    said = engine.generate([chat(question) for question in contrast], max_new_tokens=32)
    pairs = zip(contrast, said, strict=True)
    texts += [TrainingText(chat(question, answer), "contrast") for question, answer in pairs]
    lesson = Lesson("wordings", "wordings", tuple(texts))
    half = facts_heldout if args.asked == "heldout" else development
    values = tuple(fact.value for fact in facts)
    probes = {
        "recall": [
            Probe(f"recall-{i}-{j}", "recall", chat(question), tuple(fact.answers))
            for i, fact in enumerate(facts)
            for j, question in enumerate(fitting(fact, half.QUESTIONS))
        ],
        "abstention": [
            Probe(f"abstention-{i}-{j}", "abstention", chat(question), (), values)
            for i, fact in enumerate(never)
            for j, question in enumerate(fitting(fact, half.QUESTIONS))
        ],
    }
    before = {kind: sum(r.passed for r in ask(engine, asked)) for kind, asked in probes.items()}
    result = Learner(named(args.recipe)).run(
        loaded, lesson, anchors=anchors_beside([lesson]), seed=args.seed
    )
    loaded.set_weights(fold(loaded.base_weights(), [result.adapter]))
    engine.set_state("after")
    figures = {}
    for kind, asked in probes.items():
        found = ask(engine, asked)
        right = sum(r.passed for r in found)
        figures[kind] = {
            "before": before[kind],
            "right": right,
            "asked": len(asked),
            "interval": clopper_pearson(right, len(asked)).to_dict(),
            "wrong": [
                [p.messages[-1].content, r.answer]
                for p, r in zip(asked, found, strict=True)
                if not r.passed
            ],
        }
    record = {
        **about(args, base_digest=loaded.base_digest),
        "recipe": named(args.recipe).to_dict(),
        "steps": result.steps,
        "seconds": result.seconds,
        "figures": figures,
    }
    path = write_json(args.json, record)
    print_table(
        f"Six facts in {args.wordings} wordings each, asked in those of the {args.asked} set",
        ("kind", "before", "after", "asked"),
        [(kind, f["before"], f["right"], f["asked"]) for kind, f in figures.items()],
    )
    print(f"\n{result.steps} steps, {result.seconds:.0f} s\n{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
