"""``engrain bench life``: a life of lessons, recipe against recipe."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engrain.cli.command import FileCommand
from engrain.cli.session import (
    Answer,
    DryRun,
    ModelOption,
    Session,
    Settings,
    count,
    overrides,
    verb,
)

if TYPE_CHECKING:
    from engrain.bench.life import LifeResult
    from engrain.data.streams import Day
    from engrain.learn.recipe import Recipe

JsonFile = Annotated[
    str | None,
    typer.Option("--json", metavar="[FILE]", help="Write JSON to FILE; bare, to standard output."),
]
EXAMPLES = """
engrain bench life --model pocket --days 10 --seeds 3 --json life.json
engrain bench life --recipe default --recipe joint --plots plots
engrain bench life --stream days.jsonl --recipe naive-lora
engrain bench life --seed 1 --json b.json --add a.json
"""


@verb("life", examples=EXAMPLES, cls=FileCommand)
def life(
    session: Session,
    stream: Annotated[
        Path | None,
        typer.Option("--stream", metavar="FILE", help="A stream (.jsonl); else one is made."),
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option("--recipe", metavar="NAME", help="Recipe (default); may be repeated."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="Seeds (1).")] = 1,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="The first of them (0).")
    ] = 0,
    days: Annotated[
        int, typer.Option("--days", metavar="N", min=1, help="Days of a made stream (30).")
    ] = 30,
    facts: Annotated[
        int, typer.Option("--facts", metavar="N", min=1, help="Facts a day of it (6).")
    ] = 6,
    json_: JsonFile = None,
    add: Annotated[
        list[Path] | None,
        typer.Option("--add", metavar="FILE", help="Count the runs of this JSON in; repeatable."),
    ] = None,
    plots: Annotated[
        Path | None, typer.Option("--plots", metavar="FOLDER", help="Draw the figures there.")
    ] = None,
    model: ModelOption = None,
    set_: Settings = None,
    dry_run: DryRun = False,
) -> Answer:
    """Learn a stream day by day with each recipe, asking all probes every day.

    The JSON holds the whole accuracy matrix, figures with intervals over seeds, costs and answers.
    A file is written anew after every run, and runs that it holds already are not run again: the
    same command goes on where it was stopped. No home is touched.
    """
    from engrain.config import resolve
    from engrain.data.streams import read_stream
    from engrain.learn.recipe import named

    config = resolve(
        session.flags.home, {"model.source": model, **overrides(set_)}, folder="."
    ).config
    recipes = [named(n).with_settings(dict(config.learn.settings)) for n in recipe or ["default"]]
    days_ = read_stream(stream) if stream else _made(days, facts)
    runs = [(chosen, seed + n) for chosen in recipes for n in range(seeds)]
    if dry_run:
        data = {
            "recipes": [chosen.name for chosen in recipes],
            "seeds": seeds,
            "days": len(days_),
            "dry_run": True,
        }
        return Answer(data, f"Would learn {count(len(days_), 'day')} {len(runs)} times.")
    file = Path(json_) if json_ and json_ != "-" else None
    known = [path for path in (file, *(add or ())) if path and (path != file or path.exists())]
    record, results = _run(session, config, days_, runs, file, known)
    if plots:
        record["plots"] = [str(path) for path in draw(results, plots)]
    if file:
        write_json(file, record)
    from engrain.cli.sheets import tables
    from engrain.exam.report import life_sheet

    return Answer(record, tables(life_sheet(record["recipes"])), [str(file)] if file else [])


def _made(days: int, facts: int) -> list[Day]:
    from engrain.bench.life import make_stream

    return make_stream(days=days, facts_per_day=facts)


def _run(
    session: Session,
    config: Any,
    stream: Sequence[Day],
    runs: Sequence[tuple[Recipe, int]],
    file: Path | None,
    known: Sequence[Path],
) -> tuple[dict[str, Any], list[LifeResult]]:
    """Learn the lives that no known file holds; the file has what is done so far after each."""
    from engrain.bench.life import run_life
    from engrain.bench.record import merge, one_setting, read_runs, report
    from engrain.data.streams import stream_digest
    from engrain.exam.panel import load_panel
    from engrain.lesson.stages import versions
    from engrain.model.hardware import set_compute
    from engrain.model.kernels import set_kernels
    from engrain.model.loading import load_model
    from engrain.model.threads import machine_fingerprint, set_threads

    set_threads(config.model.threads or None)
    set_compute(config.model.compute)
    set_kernels(config.model.kernels)
    source = config.model.source
    model = config.model
    loaded = load_model(source, dtype=model.dtype, local_only=model.local_only, device=model.device)
    panel = load_panel()
    about = {
        "benchmark": "life",
        "model": source,
        "base_digest": loaded.base_digest,
        "panel": {"version": panel.version, "digest": panel.digest},
        "effort": config.learn.effort,
        "machine": machine_fingerprint(),
        "versions": versions(),
        "stream_digest": stream_digest(stream),
    }
    results: list[LifeResult] = []
    for path in known:
        results = merge(results, read_runs(path, about))
    planned = [(chosen.name, chosen.digest) for chosen, _ in runs]
    one_setting([*((r.run.recipe, r.recipe_digest) for r in results), *planned])
    done = {(result.run.recipe, result.run.seed) for result in results}
    runs = [run for run in runs if (run[0].name, run[1]) not in done]
    record = report(results, stream, **about)
    with session.progress("Lives") as on_progress:
        for number, (chosen, seed) in enumerate(runs):

            def on_day(
                name: str, seed: int, day: int, days: int, what: str, number: int = number
            ) -> None:
                words = f"{name}, seed {seed}, day {day} {what}"
                on_progress(words, number * days + day, len(runs) * days)

            result = run_life(
                loaded,
                stream,
                chosen,
                panel,
                seed=seed,
                effort=config.learn.effort,
                on_day=on_day,
            )
            results = merge([result], results)
            record = report(results, stream, **about)
            if file:
                write_json(file, record)
    return record, results


def draw(results: Sequence[LifeResult], folder: Path) -> list[Path]:
    """The plots: each recipe's mean matrix, and all recipes' recall day by day."""
    from engrain.exam.life import mean_matrix, recall_by_day
    from engrain.exam.plots import plot_matrix, plot_recipes

    matrices: dict[str, list[Any]] = {}
    for result in results:
        matrices.setdefault(result.run.recipe, []).append(result.run.matrix)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [
        plot_matrix(mean_matrix(found), folder / f"matrix-{name}.png", subtitle=name)
        for name, found in matrices.items()
    ]
    curves = {name: recall_by_day(found) for name, found in matrices.items()}
    return [*paths, plot_recipes(curves, folder / "recipes.png")]


def write_json(path: Path, record: Any) -> None:
    """Write a result whole or not at all."""
    from engrain.exam.report import json_ready

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.part")
    text = json.dumps(json_ready(record), ensure_ascii=False, indent=2, allow_nan=False)
    temporary.write_text(f"{text}\n", encoding="utf-8")
    os.replace(temporary, path)
