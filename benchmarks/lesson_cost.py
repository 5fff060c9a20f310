"""What a lesson costs, and whether that was told beforehand.

Reads the lessons of a home, or learns some days of a made-up life in a new one, and compares the
seconds that were told before each lesson with those that it took.

    python -m benchmarks.lesson_cost [--days 5] [--home FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import about, begin, options, print_table, write_json
from benchmarks.days import add_options, learn_days, open_or_make

if TYPE_CHECKING:
    from engrain.home import Home

FACTOR = 2.0
SECONDS = 60.0


def costs(home: Home) -> list[dict[str, Any]]:
    """Told and taken seconds of every lesson of a home."""
    rows = []
    for entry in home.lessons():
        record = home.show(entry.id)
        told, taken = record.estimated_seconds, record.measured_seconds
        rows.append(
            {
                "lesson": entry.id,
                "title": entry.title,
                "texts": len(record.lesson.facts()),
                "estimated_seconds": told,
                "measured_seconds": taken,
                "ratio": taken / told if told else None,
                "within": bool(told) and 1 / FACTOR <= taken / float(told or 1) <= FACTOR,
                "peak_memory_bytes": record.peak_memory_bytes,
            }
        )
    return rows


def main() -> int:
    """Parse the arguments, learn or read, write; 0 if both bars are reached."""
    parser = options(__doc__, "lesson_cost")
    parser.add_argument("--home", type=Path, help="read this home's lessons and learn nothing")
    add_options(parser, days=5)
    args = parser.parse_args()
    made = tempfile.TemporaryDirectory() if args.folder is None else nullcontext(args.folder)
    with made as folder:
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        from engrain.bench.life import make_stream
        from engrain.home import Home

        if args.home:
            with Home.open(args.home) as home:
                rows = costs(home)
        else:
            source = begin(args, place)
            with open_or_make(place / "home", source, args) as home:
                stream = make_stream(days=args.days, facts_per_day=args.facts, seed=args.seed)
                learn_days(home, stream, explicit=args.explicit)
                rows = costs(home)
    if not rows:
        sys.exit(f"The home {args.home} holds no lesson.")
    within = sum(row["within"] for row in rows)
    slowest = max(row["measured_seconds"] for row in rows)
    record = {
        **about(args),
        "bars": {"factor": FACTOR, "seconds": SECONDS},
        "within_factor": within,
        "lessons": len(rows),
        "slowest_seconds": slowest,
        "mean_seconds": sum(row["measured_seconds"] for row in rows) / len(rows),
        "rows": rows,
    }
    path = write_json(args.json, record)
    print_table(
        "The cost of a lesson",
        ("lesson", "texts", "told (s)", "taken (s)", "taken/told", "within 2x", "peak (MB)"),
        [
            (
                row["lesson"],
                row["texts"],
                row["estimated_seconds"],
                row["measured_seconds"],
                row["ratio"],
                row["within"],
                row["peak_memory_bytes"] // 1_000_000,
            )
            for row in rows
        ],
    )
    print(
        f"\n{within} of {len(rows)} within a factor of {FACTOR:.0f}; the slowest took "
        f"{slowest:.1f} s (bar: {SECONDS:.0f}).\n{path}"
    )
    return 0 if within == len(rows) and slowest <= SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
