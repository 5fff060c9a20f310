"""Where the time of a whole lesson goes, and what the same training costs TRL with PEFT's LoRA.

Days of a made-up life are told to a new home with the pocket model; each lesson is timed stage by
stage. Then the texts of the last lesson are trained on for as many steps, with as many texts a
step, by TRL's SFTTrainer and by the learner with plain LoRA (recipe ``naive-lora``), each in a
fresh process: the training part alone, like with like. Our default recipe does more in a step than
both (a KL anchor, replay, absence), which is told beside them.

    python -m benchmarks.lesson [--days 2 --peer-python PATH --json FILE]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import TINY, about, begin, options, print_table, write_json
from benchmarks.days import add_options, examples, open_or_make
from benchmarks.measure import Meter, contestant, serve, summary, touch
from benchmarks.peers import contestants

STAGES = ("studied", "examined_before", "trained", "folded", "examined_after", "committed")
WORDS = {
    "studied": "self-study",
    "examined_before": "exam before",
    "trained": "training",
    "folded": "the fold",
    "examined_after": "exam after",
    "committed": "decision and commit",
}


class Stopwatch:
    """When each stage of a lesson was first and last heard of."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take a report of the pipeline."""
        now = time.perf_counter()
        self.first.setdefault(stage, now)
        self.last[stage] = now

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage; call it when the lesson is over."""
        marks = dict(self.last)
        if "examined_after" in self.first:
            marks["folded"] = self.first["examined_after"]
        marks["committed"] = time.perf_counter()
        taken: dict[str, float] = {}
        before = self.began
        for stage in STAGES:
            at = marks.get(stage, before)
            taken[stage] = at - before
            before = at
        return taken


def whole_lessons(request: Mapping[str, Any], meter: Meter) -> dict[str, Any]:
    """The child that learns the days in a home."""
    import argparse

    from engrain.bench.life import make_stream

    args = argparse.Namespace(**request["arguments"])
    stream = make_stream(days=args.days, facts_per_day=args.facts, seed=args.seed)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        source = begin(args, Path(folder))
        with open_or_make(Path(folder) / "home", source, args) as home:
            once: dict[str, float] = {}
            began = time.perf_counter()
            home.asked.noise()
            once["noise_seconds"] = time.perf_counter() - began
            began = time.perf_counter()
            home.estimate(list(stream[0].conversations))
            once["calibration_seconds"] = time.perf_counter() - began
            for day in stream:
                told: Any = list(day.conversations)
                if args.explicit:
                    told = examples(day, home.path / f"{day.id}.jsonl")
                watch = Stopwatch()
                outcome = home.learn(told, on_progress=watch)
                record = home.show(outcome.lesson.id)
                recipe = home.recipe()
                rows.append(
                    {
                        "seconds": watch.seconds(),
                        "whole_seconds": outcome.seconds,
                        "texts": len(record.lesson.facts()),
                        "steps": recipe.steps(record.lesson),
                        "peak_memory_bytes": outcome.peak_memory_bytes,
                    }
                )
        texts = [t.to_dict() for t in record.lesson.texts if t.kind != "reading"]
    return {**once, "lessons": rows, "last_texts": texts, "batch_size": 2 * recipe.batch_size}


def plain_lora(request: Mapping[str, Any], meter: Meter) -> dict[str, Any]:
    """The child that trains the same texts with the learner and plain LoRA."""
    from engrain.data.lessons import Lesson, TrainingText
    from engrain.learn.learner import Learner
    from engrain.learn.recipe import named
    from engrain.model.loading import load_model

    # As explicit examples: every text is new, and none is left to a replay that is not there.
    texts = [TrainingText.from_dict({**text, "kind": "explicit"}) for text in request["texts"]]
    recipe = named("naive-lora").with_settings(
        {
            "batch_size": request["batch_size"],
            "min_steps": request["steps"],
            "max_steps": request["steps"],
        }
    )
    meter.importing_done()
    loaded = load_model(request["model"], local_only=True)
    meter.loaded(touch(loaded.model))
    ends: list[float] = []

    def on_step(done: int, total: int, loss: float) -> None:
        ends.append(time.perf_counter())
        meter.step(ends[-1] - (ends[-2] if done > 1 else began))

    began = time.perf_counter()
    result = Learner(recipe).run(loaded, Lesson("same", "", tuple(texts)), on_step=on_step)
    return {"run_seconds": result.seconds, "steps": result.steps}


def work(request: Mapping[str, Any], meter: Meter) -> dict[str, Any]:
    """The children of this benchmark, by what is asked for."""
    return {"lessons": whole_lessons, "plain": plain_lora}[request["part"]](request, meter)


def same_training(args: Any, folder: Path, learned: Mapping[str, Any]) -> dict[str, Any]:
    """The training part alone, in turn, on the texts of the last lesson."""
    from engrain.learn.compute import has_bf16
    from engrain.model.loading import POCKET_FOLDER

    source = begin(args, folder)
    request = {
        "model": str(POCKET_FOLDER) if source == "pocket" else source,
        "texts": learned["last_texts"],
        "steps": learned["lessons"][-1]["steps"],
        "batch_size": learned["batch_size"],
    }
    trl = {
        # The pocket model is held in fp32 by both; bf16 is a matter of autocast, where there is it.
        name: {**settings, "dtype": "float32", "autocast": has_bf16()}
        for name, settings in contestants(False).items()
        if settings["kind"] == "trl"
    }
    records: dict[str, list[dict[str, Any]]] = {}
    for _ in range(args.repeats):
        for name, settings in {"plain-lora": {"part": "plain"}, **trl}.items():
            kept = records.setdefault(name, [])
            if kept and "unavailable" in kept[-1]:
                continue
            mine = name == "plain-lora"
            kept.append(
                contestant(
                    "benchmarks.lesson --serve" if mine else "benchmarks.peers",
                    {**request, **settings},
                    python=sys.executable if mine else args.peer_python,
                    threads=args.threads,
                    prefix=args.prefix,
                )
            )
            shown = kept[-1].get("unavailable") or f"{kept[-1]['run_seconds']:.3g} s"
            print(f"  {name}: {shown}", file=sys.stderr, flush=True)
    return {name: summary(rows) for name, rows in records.items()}


def main() -> int:
    """Parse the arguments, learn, train the same, write; 1 if something failed."""
    parser = options(__doc__, "lesson")
    add_options(parser, days=2)
    parser.add_argument("--repeats", type=int, default=3, help="rounds of the training alone")
    parser.add_argument("--peer-python", default=sys.executable, metavar="PATH")
    parser.add_argument("--prefix", default="", help="before each command, as 'taskset -c 0-1'")
    args = parser.parse_args()
    given = {key: value for key, value in vars(args).items() if not isinstance(value, Path)}
    learned = contestant(
        "benchmarks.lesson --serve",
        {"part": "lessons", "arguments": given},
        threads=args.threads,
        timeout=7200,
        prefix=args.prefix,
    )
    if "unavailable" in learned:
        sys.exit(learned["unavailable"])
    with tempfile.TemporaryDirectory() as folder:
        training = same_training(args, Path(folder), learned)
    last = learned["lessons"][-1]
    plain = training["plain-lora"].get("run_seconds")
    peer = [
        row["run_seconds"]
        for n, row in training.items()
        if n != "plain-lora" and "run_seconds" in row
    ]
    best = min(peer, default=None)
    record = {
        **about(args),
        **{key: learned[key] for key in ("noise_seconds", "calibration_seconds", "lessons")},
        "steps": last["steps"],
        "batch_size": learned["batch_size"],
        "texts": len(learned["last_texts"]),
        "training_seconds_default_recipe": last["seconds"]["trained"],
        "training": training,
        "speedup_training_vs_trl": best / plain if best and plain else None,
        "speedup_default_recipe_vs_trl": best / last["seconds"]["trained"] if best else None,
    }
    path = write_json(args.json, record)
    _print(record, args.model)
    print(path)
    return 1 if any(row.get("failed") for row in training.values()) else 0


def _print(record: Mapping[str, Any], model: str) -> None:
    lessons = record["lessons"]
    print_table(
        f"Where the time of a lesson goes ({'a tiny model' if model == TINY else model})",
        ("stage", *(f"lesson {i} (s)" for i in range(1, len(lessons) + 1))),
        [
            *((WORDS[stage], *(row["seconds"][stage] for row in lessons)) for stage in STAGES),
            ("all", *(row["whole_seconds"] for row in lessons)),
        ],
    )
    print(
        f"Once for a home: the noise band {record['noise_seconds']:.1f} s, "
        f"the calibration {record['calibration_seconds']:.1f} s."
    )
    print_table(
        f"Training alone: {record['texts']} texts, {record['steps']} steps of "
        f"{record['batch_size']}",
        ("contestant", "seconds", "a step (s)", "peak above weights (MB)"),
        [
            ("our default recipe", record["training_seconds_default_recipe"], None, None),
            *(
                (
                    name,
                    row["run_seconds"],
                    row["step_seconds"],
                    round((row["peak_bytes"] - row["resident_loaded_bytes"]) / 1e6),
                )
                for name, row in record["training"].items()
                if "unavailable" not in row
            ),
        ],
    )
    for name, row in record["training"].items():
        if "unavailable" in row:
            print(f"{name}: {row['unavailable']}")


if __name__ == "__main__":
    raise SystemExit(serve(work) if "--serve" in sys.argv else main())
