"""A hundred facts of one shape: how many are known afterwards, and what it costs the rest.

"Who lives where" of people and towns that nobody has heard of, drawn under the seed, each told in
six wordings, learned as explicit examples by ``Home.learn``, some facts a lesson. What counts is
the free greedy answer to a seventh wording that no lesson holds. Perplexity is that of the panel's
held-out texts.

    python -m benchmarks.hundred_facts --folder FOLDER

An arm is a recipe, with settings after commas: by default the product's (``chat``), and all weights
by AdamW without and with replay of the earlier facts. Interrupted, the same command goes on with
the homes in ``--folder``; arms that the JSON file holds are not run again. Of the published anchor
(all weights of a 160M model: 62% known, perplexity 46 -> 350; with replay 68% and 159) only these
figures are known, not its facts and wordings: the arms here are what can be compared.
"""

from __future__ import annotations

import json
import math
import random
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import about, begin, options, print_table, read_json, write_json
from benchmarks.days import smaller
from engrain.data.facts_values import cap, pseudo
from engrain.data.lessons import Probe, chat
from engrain.exam.panel import PanelResult, load_panel, run_panel
from engrain.exam.probes import ask, holds
from engrain.exam.statistics import clopper_pearson, paired_difference
from engrain.lesson.zero import is_zero

if TYPE_CHECKING:
    from engrain.home import Home

ARMS = ("chat", "naive-full", "naive-full,replay=reservoir")
BARS = {"recall": 0.9, "perplexity_percent": 2.0}
STRANGERS = 20
"""People of whom nothing was told, asked in the same wording."""
TARGET = "{person} lives in {town}."
TAUGHT = (
    "Where does {person} live?",
    "Which town is home to {person}?",
    "Tell me the town that {person} lives in.",
    "In what place would I find {person} at home?",
    "Complete the sentence: {person} lives in",
    "I want to send {person} a letter. To which town?",
)
HELD_OUT = "What is the name of the town where {person} lives?"


@dataclass(frozen=True)
class Fact:
    """Who lives where."""

    person: str
    town: str

    def examples(self) -> list[dict[str, str]]:
        """The fact in every wording that is taught."""
        target = TARGET.format(person=self.person, town=self.town)
        return [
            {"prompt": wording.format(person=self.person), "completion": target}
            for wording in TAUGHT
        ]

    def probe(self, wording: str) -> Probe:
        """The fact as a question of an exam."""
        return Probe(
            f"{self.person}: {wording}",
            "recall",
            chat(wording.format(person=self.person)),
            (self.town,),
        )


def draw(count: int, seed: int) -> list[Fact]:
    """Invented people and towns; no word of any comes twice."""
    rng, used = random.Random(f"hundred facts:{seed}"), set[str]()

    def word() -> str:
        while (found := pseudo(rng, 2, 3)) in used or len(found) < 5:
            pass
        used.add(found)
        return cap(found)

    return [Fact(f"{word()} {word()}", word()) for _ in range(count)]


def parts(facts: Sequence[Fact], lessons: int) -> list[Sequence[Fact]]:
    """The facts of each lesson, as evenly as they go."""
    cuts = [round(i * len(facts) / lessons) for i in range(lessons + 1)]
    found = [facts[low:high] for low, high in pairwise(cuts)]
    return [part for part in found if part]


def recall(home: Home, facts: Sequence[Fact], wordings: Sequence[str]) -> dict[str, Any]:
    """How many facts are answered right, each in each wording, and how the others are missed."""
    towns = {fact.town for fact in facts}
    asked = [(fact, fact.probe(wording)) for fact in facts for wording in wordings]
    results = ask(home.served.engine, [probe for _, probe in asked])
    wrong = [
        (fact, result.answer)
        for (fact, _), result in zip(asked, results, strict=True)
        if not result.passed
    ]
    right = len(asked) - len(wrong)
    mixed = sum(any(holds(answer, t) for t in towns - {fact.town}) for fact, answer in wrong)
    return {
        "right": right,
        "asked": len(asked),
        "interval": clopper_pearson(right, len(asked)).to_dict(),
        "another_facts_town": mixed,
        "wrong": [[fact.person, fact.town, answer] for fact, answer in wrong[:20]],
    }


def taken_for_known(home: Home, facts: Sequence[Fact], drawn: Sequence[Fact]) -> dict[str, int]:
    """Of how many people never spoken of it says that they live in a town that was taught."""
    strangers = drawn[len(facts) :]
    results = ask(home.served.engine, [fact.probe(HELD_OUT) for fact in strangers])
    towns = {fact.town for fact in facts}
    given = sum(any(holds(result.answer, town) for town in towns) for result in results)
    return {"given_a_town": given, "asked": len(strangers)}


def held_out_texts(home: Home, items: int) -> PanelResult:
    """The loss on the panel's texts under the weights in force."""
    panel = load_panel()
    panel = panel.smaller({"loss": items}) if items else panel
    return run_panel(home.served.engine, panel, parts=["loss"])


def change(before: PanelResult, after: PanelResult) -> dict[str, float]:
    """Perplexities and the change in per cent, with the interval over the texts."""
    names = list(before.texts)
    spread = paired_difference(
        [before.texts[name].nats for name in names], [after.texts[name].nats for name in names]
    ).interval
    percent = {
        "percent": after.loss - before.loss,
        "percent_low": spread.low,
        "percent_high": spread.high,
    }
    return {
        "before": math.exp(before.loss),
        "after": math.exp(after.loss),
        **{name: 100 * math.expm1(value) for name, value in percent.items()},
    }


def opened(folder: Path, source: str, arm: str, args: Any) -> Home:
    """The home of an arm: the one that an interrupted run has left, or a new one.

    Its gate is off: it would only say whether a lesson is served.
    """
    from engrain.cli.session import overrides
    from engrain.home import Home

    recipe, *settings = arm.split(",")
    given = {
        **overrides([*args.set, *settings]),
        "model.threads": args.threads,
        "gate.enabled": False,
        "learn.recipe": recipe,
        "learn.seed": args.seed,
    }
    if (folder / "config.toml").exists():
        return smaller(Home.open(folder, overrides=given), args)
    return smaller(Home.create(folder, overrides={**given, "model.source": source}), args)


def run_arm(home: Home, facts: Sequence[Fact], args: Any, found: dict[str, Any]) -> Iterator[None]:
    """Teach all facts in a home and measure; gives way after each lesson, for ``found`` is new."""
    lessons = parts(facts, args.lessons)
    for waiting in [job for job in home.jobs() if not job.finished]:
        home.resume(waiting.id)
    learned = [entry.id for entry in home.lessons() if not is_zero(entry)]
    with home.served.engine.untaught():
        start = held_out_texts(home, args.items)
        found["before"] = recall(home, facts, [HELD_OUT])
    rows = found.setdefault("lessons", [])
    for number, part in enumerate(lessons):
        if number == len(learned):
            path = home.path / f"lesson-{number + 1}.jsonl"
            lines = [json.dumps(example) for fact in part for example in fact.examples()]
            path.write_text("\n".join(lines), encoding="utf-8")
            learned.append(home.learn(path).lesson.id)
        if number < len(rows):
            continue
        record = home.show(learned[number])
        row = {
            "facts": len(part),
            "seconds": record.measured_seconds,
            "peak_memory_bytes": record.peak_memory_bytes,
        }
        # A lesson that was committed right before a kill is measured if nothing came after it.
        if number == len(learned) - 1:
            so_far = [fact for earlier in lessons[: number + 1] for fact in earlier]
            row["this_lesson"] = recall(home, part, [HELD_OUT])
            row["so_far"] = recall(home, so_far, [HELD_OUT])
            row["perplexity"] = change(start, held_out_texts(home, args.items))
        rows.append(row)
        yield
    found |= {
        "recipe": home.recipe().to_dict(),
        "held_out": recall(home, facts, [HELD_OUT]),
        "taught": recall(home, facts, TAUGHT),
        "strangers": taken_for_known(home, facts, draw(len(facts) + STRANGERS, args.seed)),
        "perplexity": change(start, held_out_texts(home, args.items)),
    }
    share = found["held_out"]["right"] / found["held_out"]["asked"]
    cheap = found["perplexity"]["percent"] <= BARS["perplexity_percent"]
    found["reaches_the_bars"] = share >= BARS["recall"] and cheap
    yield


def main() -> int:
    """Parse the arguments, teach, measure, write; 0 if the first arm reaches the bars."""
    parser = options(__doc__, "hundred_facts")
    parser.set_defaults(model="smollm2-135m")
    parser.add_argument("--facts", type=int, default=100)
    parser.add_argument("--lessons", type=int, default=10, help="over which they are spread")
    parser.add_argument(
        "--recipe",
        action="append",
        metavar="NAME[,KEY=VALUE...]",
        help=f"an arm; several times (default: {' '.join(ARMS)})",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="all arms")
    parser.add_argument("--folder", type=Path, help="keep the homes here, and go on with them")
    parser.add_argument("--items", type=int, default=0, help="of each part of the panel; 0: all")
    args = parser.parse_args()
    facts = draw(args.facts, args.seed)
    setting = {name: getattr(args, name) for name in ("model", "facts", "lessons", "seed", "set")}
    kept = read_json(args.json)
    if kept and kept.get("setting") != setting:
        sys.exit(f"{args.json} holds another setting: {kept.get('setting')}; give another --json.")
    record = {**about(args), "setting": setting, "bars": BARS, "held_out": HELD_OUT}
    record |= {"wordings": TAUGHT, "example": facts[0].examples()[0]}
    record["arms"] = kept.get("arms", {})
    arms = list(args.recipe or ARMS)
    with tempfile.TemporaryDirectory() if args.folder is None else nullcontext(args.folder) as at:
        source = begin(args, Path(at))
        for arm in arms:
            found = record["arms"].setdefault(arm, {})
            if "reaches_the_bars" in found:
                continue
            place = Path(at) / re.sub(r"[^\w.-]+", "-", arm)
            if not place.exists():
                found.clear()
            with opened(place, source, arm, args) as home:
                for _ in run_arm(home, facts, args, found):
                    write_json(args.json, record)
                    print(f"  {arm}: lesson {len(found['lessons'])}", file=sys.stderr, flush=True)
    print_table(
        f"{args.facts} facts of one shape in {args.lessons} lessons ({args.model})",
        ("arm", "known", "in taught words", "perplexity", "after", "change (%)", "reached"),
        [row(arm, record["arms"][arm]) for arm in arms],
    )
    print(write_json(args.json, record))
    return 0 if record["arms"][arms[0]]["reaches_the_bars"] else 1


def row(arm: str, found: Mapping[str, Any]) -> tuple[object, ...]:
    """An arm as a line of the table."""
    known = [f"{found[k]['right']} of {found[k]['asked']}" for k in ("held_out", "taught")]
    cost = found["perplexity"]
    reached = bool(found["reaches_the_bars"])
    return (arm, *known, cost["before"], cost["after"], cost["percent"], reached)


if __name__ == "__main__":
    sys.exit(main())
