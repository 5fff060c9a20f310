"""``engrain demo``: the whole story on the model inside the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from engrain.cli.bench import JsonFile, write_json
from engrain.cli.command import FileCommand
from engrain.cli.session import Answer, DryRun, Session, Settings, overrides, verb

EXAMPLES = """
engrain demo
engrain demo --json demo.json --plots plots
engrain demo --home ~/demo-home
"""


@verb("demo", examples=EXAMPLES, cls=FileCommand)
def demo(
    session: Session,
    json_: JsonFile = None,
    plots: Annotated[
        Path | None, typer.Option("--plots", metavar="FOLDER", help="Where the two plots go.")
    ] = None,
    days: Annotated[int, typer.Option("--days", metavar="N", min=1, help="Days (2).")] = 2,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="'pocket', a folder, or a hub id."),
    ] = None,
    set_: Settings = None,
    dry_run: DryRun = False,
) -> Answer:
    """Teach, measure, compare, undo: the story, told as it happens.

    It takes place in a temporary home; with --home that home is made and kept. ENGRAIN_HOME is not
    touched.
    """
    wanted = {"model.source": model, **overrides(set_)}
    if dry_run:
        data: dict[str, Any] = {"days": days, "home": session.flags.home, "dry_run": True}
        place = session.flags.home or "a temporary home"
        return Answer(data, f"Would tell the story of {days} days in {place}, and draw two plots.")
    from engrain.demo import run_demo

    with session.progress("Demo") as on_progress:
        record = run_demo(
            session.flags.home,
            say=session.say,
            on_progress=on_progress,
            days=days,
            overrides=wanted,
            plots=plots,
        )
    if json_ and json_ != "-":
        write_json(Path(json_), record)
    return Answer(record, f"All of it took {record['seconds']:.0f} s.")
