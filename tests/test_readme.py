"""The README says of real models what the results in git say, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import readme
from engrain.model import catalogue
from engrain.model.disk import megabytes

EVERYDAY = catalogue.everyday().name


def counted(**kinds: tuple[int, int]) -> dict[str, Any]:
    return {kind: {"right": right, "asked": asked} for kind, (right, asked) in kinds.items()}


def keep(folder: Path, name: str, record: dict[str, Any]) -> None:
    (folder / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")


def test_the_readme_is_as_the_results_say() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert {match[2] for match in readme.BLOCK.finditer(text)} == set(readme.MADE)
    assert readme.filled(text) == text, "run python -m benchmarks.readme"


def test_the_readme_names_models_of_the_catalogue_with_their_sizes() -> None:
    text = readme.README.read_text(encoding="utf-8")
    for item in catalogue.entries():
        if item.role != "tests":
            (line,) = [row for row in text.splitlines() if row.startswith(f"| `{item.name}` |")]
            assert line.endswith(f"| {megabytes(item.bytes):,} MB |")


def test_without_results_there_is_no_figure(tmp_path: Path) -> None:
    assert readme.everyday(tmp_path) == readme.UNKNOWN and readme.demo(tmp_path) == ""
    # A run under another name, as of an attempt, is not shown.
    keep(tmp_path, "everyday-view-first-manners", {"figures": counted(recall=(1, 2))})
    assert readme.everyday(tmp_path) == readme.UNKNOWN


def test_a_table_has_the_rows_that_were_measured(tmp_path: Path) -> None:
    figures = counted(recall=(20, 24), paraphrase=(18, 24), abstention=(7, 8), norm=(4, 4))
    keep(tmp_path, f"everyday-view-{EVERYDAY}", {"figures": figures})
    days = [
        {"seconds": seconds, "peak_memory_bytes": 10**9 * seconds, "all": counted(recall=(3, 4))}
        for seconds in (2, 4)
    ]
    keep(tmp_path, "everyday-learn-smollm2-135m", {"learned": {"days": days}})
    first, rule, *rows = readme.everyday(tmp_path).splitlines()
    assert first == f"| everyday talk | `smollm2-135m` | `{EVERYDAY}` |" and rule == "|---|---|---|"
    assert rows == [
        "| with a day's chats in view: answers what was told |  | 38 of 48 (79%) |",
        "| the same: says what it was not told |  | 7 of 8 (88%) |",
        "| days learned, one after the other | 2 |  |",
        "| closed book, all days: recall | 3 of 4 (75%) |  |",
        "| training of a day, its peak memory | 3 s, 4.0 GB |  |",
    ]


def test_what_the_demo_said_is_shown(tmp_path: Path) -> None:
    machine = {"cores": 2, "cpu": "a processor"}
    record = {"story": ["1. A person tells."], "seconds": 301.4, "machine": machine}
    keep(tmp_path, f"demo-{EVERYDAY}", record)
    before = "x\n<!-- begin: demo -->\nold\n<!-- end: demo -->\ny\n"
    after = readme.filled(before, tmp_path)
    assert "old" not in after and after.startswith("x\n") and after.endswith("-->\ny\n")
    assert "$ engrain demo\n1. A person tells.\nAll of it took 301 s.\n```\n" in after
    assert "On 2 cores (a processor)" in after
