"""Make lesson zero of a base: a LoRA that teaches it to read, to abstain, to ask and to judge.

    python -m training.manners.train --model smollm2-135m --steps 600 --out work/manners-135m

The project's own learner does it, held by the KL anchor, a talk or two a step: what is said before
the questions is computed once for all of them, without a gradient. A run that was stopped goes on
from its checkpoint.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import accumulate, islice
from pathlib import Path

from engrain.data.examples import Example, encode
from engrain.data.general import anchors
from engrain.data.lessons import Lesson, TrainingText, chat
from engrain.learn.learner import Further, Learner
from engrain.learn.mastery import Mastery
from engrain.learn.recipe import Choice, Recipe
from engrain.learn.technique import Setting
from engrain.model.adapter import Adapter
from engrain.model.cache import common_prefix
from engrain.model.engine import Engine
from engrain.model.loading import LoadedModel, load_model
from training.manners import bank, data


def recipe(options: argparse.Namespace) -> Recipe:
    """How lesson zero is learned."""
    return Recipe(
        "manners",
        architecture=Choice("lora", {"rank": options.rank, "alpha": 2.0 * options.rank}),
        optimization=Choice("adamw", {"learning_rate": options.rate}),
        # No talk is kept from step to step; what the rows of a step begin with is computed once.
        representation=Choice("context_frozen", {"shortest": 100_000, "live": 100_000, "talk": 0}),
        regularization=(
            Choice(
                "kl_anchor",
                {
                    "strength": options.anchor,
                    "texts": options.anchors,
                    "texts_per_step": 1,
                    "reading_share": 0.0,
                    "max_tokens": 112,
                },
            ),
        ),
        batch_size=options.rows,
        min_steps=options.steps,
        max_steps=options.steps,
    )


class OneTalkAStep(Learner):
    """The learner, given the texts of each step."""

    def __init__(self, recipe: Recipe, made: Sequence[Sequence[TrainingText]]) -> None:
        super().__init__(recipe)
        self.starts = [0, *accumulate(map(len, made))]
        self.weights = [data.weight(text) for step in made for text in step]

    def _own(
        self,
        setting: Setting,
        new: Sequence[Example],
        mastery: Mastery | None,
        step: int,
        missing: str,
    ) -> Sequence[Example]:
        own = range(self.starts[step], self.starts[step + 1])
        return [replace(new[place], weight=self.weights[place]) for place in own]


def general(loaded: LoadedModel, file: Path, count: int, shared: Path) -> list[TrainingText]:
    """What must not change: requests of all kinds with the base's own answers, sums, small talk."""
    rng = random.Random("manners:anchors")
    if file.exists():
        own = [TrainingText.from_dict(item) for item in json.loads(file.read_text())]
    else:
        asked = [
            request
            for situation in data.situations()
            if not situation["id"].startswith("example")
            for wish in bank.drawn(situation, rng).get("instructions", ())
            for request, _ in (*wish["follow"], wish["against"])
        ]
        rng.shuffle(asked)
        asked = asked[: count // 2]
        answers = Engine(loaded).generate(
            [chat(request) for request in asked], max_new_tokens=56, temperature=0.3, batch_size=16
        )
        pairs = [(q, a) for q, a in zip(asked, answers, strict=True) if a]
        own = [TrainingText(chat(*pair), "explicit", "general") for pair in pairs]
        file.write_text(json.dumps([text.to_dict() for text in own], ensure_ascii=False))
    talk = [text for text in anchors() if "[" not in str(text.messages)][: count // 3]
    sums: list[TrainingText] = []
    source = shared / "gsm8k" / "train.jsonl.gz"
    if source.exists():
        with gzip.open(source, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        for row in rng.sample(rows, count // 6):
            sums.append(TrainingText(chat(row["question"], row["answer"]), "explicit", "sum"))
    return [*own, *talk, *sums]


def parted(items: Sequence[Example], made: Sequence[Sequence[TrainingText]]) -> list[list[Example]]:
    """Items side by side as the steps have them."""
    rest = iter(items)
    return [list(islice(rest, len(step))) for step in made]


def main() -> None:
    """Train, resumably, and write the adapter and its curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rows", type=int, default=16, help="texts of a step")
    parser.add_argument("--writing", type=int, default=6, help="of them, requests of self-study")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--anchor", type=float, default=1.0)
    parser.add_argument("--anchors", type=int, default=180)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path, help="an adapter to go on from")
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    loaded = load_model(options.model, dtype=options.dtype)
    made = data.steps(options.steps, options.seed, options.rows, options.writing)
    texts = [text for step in made for text in step]
    held = general(loaded, options.out / "general.json", options.anchors, options.shared)
    lengths = [encode(loaded.tokenizer, text) for text in texts]
    tokens = sum(map(len, lengths))
    asked = tokens - sum(
        (len(step) - 1) * common_prefix([example.ids for example in part])
        for step, part in zip(made, parted(lengths, made), strict=True)
    )
    targets = sum(sum(example.loss_mask) for example in lengths)
    print(
        f"{len(made)} steps, {len(texts)} texts, {tokens} tokens, {asked} computed, "
        f"{targets} learned; {len(held)} anchors",
        flush=True,
    )

    begun = Adapter.from_bytes(options.init.read_bytes()) if options.init else None
    card = {
        "model": options.model,
        "base_digest": loaded.base_digest,
        "steps": len(made),
        "texts": len(texts),
        "tokens": tokens,
        "computed": asked,
        "learned": targets,
        "recipe": recipe(options).to_dict(),
        "seed": options.seed,
        "init": begun and sha256(begun.to_bytes()).hexdigest(),
    }
    # Before the first step: the adapter of a checkpoint can be released, too.
    (options.out / "card.json").write_text(json.dumps(card, indent=1))
    began, curve = time.perf_counter(), (options.out / "curve.jsonl").open("a")

    def on_step(done: int, total: int, loss: float) -> None:
        seconds = round(time.perf_counter() - began, 1)
        curve.write(
            json.dumps({"step": done, "of": total, "loss": round(loss, 4), "seconds": seconds})
            + "\n"
        )
        curve.flush()

    result = OneTalkAStep(recipe(options), made).run(
        loaded,
        Lesson("manners", "manners", tuple(texts)),
        anchors=held,
        further=begun and Further(begun, frozenset()),
        seed=options.seed,
        on_step=on_step,
        checkpoint=options.out / "checkpoint",
        save_every=20,
    )
    (options.out / "adapter.safetensors").write_bytes(result.adapter.to_bytes())
    card |= {
        "seconds": round(result.seconds, 1),
        "peak_memory_bytes": result.peak_memory_bytes,
        "loss": [round(loss, 4) for loss in result.losses],
    }
    (options.out / "card.json").write_text(json.dumps(card, indent=1))
    print(f"{result.steps} steps in {result.seconds:.0f} s")


if __name__ == "__main__":
    main()
