"""What the README shows of the real models, written from the results in git.

    python -m benchmarks.readme          # fills README.md
    python -m benchmarks.readme --check  # says whether it is as the results say

The results: ``demo-MODEL.json`` (``engrain demo --model MODEL --json FILE``) of the everyday model,
and ``everyday-PART-MODEL.json`` (``python -m benchmarks.everyday PART --model MODEL``). What was
not measured has no row.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT, read_json
from engrain.exam.probes import RECALL_KINDS
from engrain.model import catalogue

README = ROOT / "README.md"
BLOCK = re.compile(r"(<!-- begin: (\w+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)
UNKNOWN = (
    "Not measured to the end yet. What was seen on the way, failures included, is in the "
    "[log](docs/LOG.md).\n"
)
Row = Callable[[Mapping[str, Any]], str]


def of(part: str, model: str, folder: Path) -> dict[str, Any]:
    """The result of one part of the everyday benchmark; empty if there is none."""
    return read_json(folder / f"everyday-{part}-{model}.json")


def counts(figures: Mapping[str, Any], kinds: Sequence[str]) -> str:
    """Right and asked of some kinds of probes together."""
    found = [figures[kind] for kind in kinds if kind in figures]
    asked = sum(item["asked"] for item in found)
    right = sum(item["right"] for item in found)
    return f"{right} of {asked} ({100 * right / asked:.0f}%)" if asked else ""


def last(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was answered to all questions after the last day."""
    found: Mapping[str, Any] = record["learned"]["days"][-1]["all"]
    return found


def seconds(record: Mapping[str, Any]) -> str:
    """The mean of the trainings."""
    days = record["learned"]["days"]
    return f"{sum(day['seconds'] for day in days) / len(days):.0f} s"


def memory(record: Mapping[str, Any]) -> str:
    """The largest of the trainings."""
    most = max(day["peak_memory_bytes"] for day in record["learned"]["days"])
    return f"{most / 1e9:.1f} GB"


ROWS: tuple[tuple[str, str, Row], ...] = (
    (
        "view",
        "with a day's chats in view: answers what was told",
        lambda r: counts(r["figures"], RECALL_KINDS),
    ),
    ("view", "the same: says what it was not told", lambda r: counts(r["figures"], ["abstention"])),
    (
        "study",
        "self-study: things told that get a right text",
        lambda r: f"{r['figures']['items']['found']} of {r['figures']['items']['asked']}",
    ),
    ("study", "the same: traps learned", lambda r: f"{r['figures']['traps']}"),
    (
        "lessons",
        "with the day's lesson in view instead of its chats: answers what was told",
        lambda r: counts(r["from_lessons"]["figures"], RECALL_KINDS),
    ),
    ("learn", "days learned, one after the other", lambda r: f"{len(r['learned']['days'])}"),
    ("learn", "closed book, all days: recall", lambda r: counts(last(r), RECALL_KINDS)),
    ("learn", "the same: says what it was not told", lambda r: counts(last(r), ["abstention"])),
    ("learn", "the same: standing wishes kept", lambda r: counts(last(r), ["norm"])),
    ("learn", "training of a day, its peak memory", lambda r: f"{seconds(r)}, {memory(r)}"),
)


def everyday(folder: Path = RESULTS) -> str:
    """The table of everyday talk, a column a model."""
    models = [
        item.name
        for item in catalogue.entries()
        if any(of(part, item.name, folder) for part in ("view", "study", "lessons", "learn"))
    ]
    if not models:
        return UNKNOWN
    lines = ["| everyday talk | " + " | ".join(f"`{name}`" for name in models) + " |"]
    lines.append("|---" * (len(models) + 1) + "|")
    for part, words, show in ROWS:
        cells = [show(r) if (r := of(part, name, folder)) else "" for name in models]
        if any(cells):
            lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def demo(folder: Path = RESULTS) -> str:
    """What the demo said on the everyday model; nothing if it was not kept."""
    record = read_json(folder / f"demo-{catalogue.everyday().name}.json")
    if not record:
        return ""
    lines = ["$ engrain demo", *record["story"], f"All of it took {record['seconds']:.0f} s."]
    machine = record["machine"]
    words = f"On {machine['cores']} cores ({machine['cpu']}), installation and download apart."
    return "\n".join(["```text", *lines, "```", "", words]) + "\n"


MADE: Mapping[str, Callable[[Path], str]] = {"demo": demo, "everyday": everyday}


def filled(text: str, folder: Path = RESULTS) -> str:
    """The text with its blocks as the results say."""
    return BLOCK.sub(lambda match: match[1] + MADE[match[2]](folder) + match[3], text)


def main() -> int:
    """Fill the README, or say whether it is as it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    arguments = parser.parse_args()
    before = README.read_text(encoding="utf-8")
    after = filled(before)
    if arguments.check:
        print("README.md is as the results say." if after == before else "README.md is not.")
        return int(after != before)
    README.write_text(after, encoding="utf-8")
    print("README.md is filled.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
