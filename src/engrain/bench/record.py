"""The JSON of ``bench life``: written after every run, read again to go on or to count runs in."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from engrain.bench.life import DayRecord, LifeResult
from engrain.data.streams import Day, stream_digest
from engrain.errors import UsageError
from engrain.exam.life import LifeRun, summarise_life
from engrain.exam.metrics import ProbeHistory
from engrain.exam.panel import PanelResult

SAME = ("base_digest", "panel", "effort", "stream_digest")
"""What two files must share before their runs may stand in one table."""


def report(results: Sequence[LifeResult], stream: Sequence[Day], **about: Any) -> dict[str, Any]:
    """The benchmark's JSON: figures by recipe, the stream's digest, and every run whole."""
    return {
        **about,
        "stream_digest": stream_digest(stream),
        "days": len(stream),
        "recipes": summarise_life([result.run for result in results]),
        "runs": [result_record(result) for result in results],
    }


def result_record(result: LifeResult) -> dict[str, Any]:
    """One run as JSON-ready values: what each day cost, all answers, and both panels."""
    run = result.run
    return {
        "recipe": run.recipe,
        "recipe_digest": result.recipe_digest,
        "seed": run.seed,
        "machine": dict(result.machine),
        "days": [{**vars(day), "seconds": day.seconds} for day in result.days],
        "peak_memory_bytes": list(run.peak_memory_bytes),
        "history": run.history.to_dict(),
        "panel_before": run.panel_before.to_dict() if run.panel_before else None,
        "panel_after": run.panel_after.to_dict() if run.panel_after else None,
    }


def result_from_record(record: dict[str, Any]) -> LifeResult:
    """The run that :func:`result_record` gave."""
    days = tuple(
        DayRecord(**{k: _number(v) for k, v in day.items() if k != "seconds"})
        for day in record["days"]
    )
    before, after = (
        PanelResult.from_dict(record[key]) if record[key] else None
        for key in ("panel_before", "panel_after")
    )
    run = LifeRun(
        record["recipe"],
        record["seed"],
        ProbeHistory.from_dict(record["history"]),
        seconds=[day.seconds for day in days],
        peak_memory_bytes=record["peak_memory_bytes"],
        panel_before=before,
        panel_after=after,
    )
    return LifeResult(run, days, record["recipe_digest"], record["machine"])


def _number(value: Any) -> Any:
    return math.nan if value is None else value  # strict JSON has no NaN


def read_runs(path: Path, about: dict[str, Any]) -> list[LifeResult]:
    """The runs of another file of the same life.

    Raises:
        UsageError: The file can't be read, is not of ``bench life``, or is of another life: other
            weights, days, panel or effort.
    """
    remedy = "Name another file, or move this one away."
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        results = [result_from_record(run) for run in record["runs"]]
    except (OSError, UnicodeError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} holds no runs of 'engrain bench life' ({type(error).__name__}: {error}).",
            remedy=remedy,
        ) from error
    other = [name for name in SAME if record.get(name) != about[name]]
    if other:
        raise UsageError(f"{path} is of another life: {', '.join(other)} differ.", remedy=remedy)
    return results


def merge(results: Sequence[LifeResult], more: Sequence[LifeResult]) -> list[LifeResult]:
    """Both, each recipe and seed once, of which the one in `results` counts.

    Raises:
        UsageError: A recipe's name stands for different settings.
    """
    merged = {(r.run.recipe, r.run.seed): r for r in (*more, *results)}
    names = one_setting((r.run.recipe, r.recipe_digest) for r in merged.values())
    return sorted(merged.values(), key=lambda r: (names.index(r.run.recipe), r.run.seed))


def one_setting(recipes: Iterable[tuple[str, str]]) -> list[str]:
    """The names in pairs of a recipe's name and digest, where every name has one digest.

    Raises:
        UsageError: A name has two digests.
    """
    digests: dict[str, str] = {}
    for name, digest in recipes:
        if digests.setdefault(name, digest) != digest:
            raise UsageError(
                f"There are runs of {name!r} with different settings.",
                remedy="Name another file, so that each file holds one setting of a recipe.",
            )
    return list(digests)
