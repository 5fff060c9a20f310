"""``engrain demo``: the whole story, on a real model."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from engrain.cli.bench import JsonFile, write_json
from engrain.cli.command import FileCommand
from engrain.cli.models import download, get_first, missing_model
from engrain.cli.session import (
    Answer,
    DryRun,
    ModelOption,
    Session,
    Settings,
    overrides,
    verb,
)

EXAMPLES = """
engrain demo
engrain demo --model pocket
engrain demo --model smollm2-135m --json demo.json
engrain demo --home ~/demo-home
"""


@verb("demo", examples=EXAMPLES, cls=FileCommand)
def demo(
    session: Session,
    json_: JsonFile = None,
    model: ModelOption = None,
    set_: Settings = None,
    dry_run: DryRun = False,
) -> Answer:
    """Tell, ask, learn, ask again, undo: the story, told as it happens.

    Without --model it is told on qwen2.5-coder-0.5b, which is got first if it is not here; pocket
    is quick and knows one shape of sentence. It takes place in a temporary home; with --home that
    home is made and kept. ENGRAIN_HOME is not touched.
    """
    from engrain.config import resolve

    wanted = {"model.source": model, **overrides(set_)}
    with ExitStack() as stack:
        place = session.flags.home
        if place is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="engrain-demo-"))
            place = Path(folder) / "home"
        chosen = resolve(place, wanted).config.model
        if dry_run:
            return _planned(chosen, session.flags.home)
        get_first(session, chosen)
        from engrain.demo import run_demo

        with session.progress("Demo") as on_progress:
            record = run_demo(place, say=session.say, on_progress=on_progress, overrides=wanted)
    if json_ and json_ != "-":
        write_json(Path(json_), record)
    return Answer(record, f"All of it took {record['seconds']:.0f} s.")


def _planned(chosen: Any, home: Path | None) -> Answer:
    missing = missing_model(chosen)
    first = f"get {missing.name} ({download(missing)}), then " if missing else ""
    where = str(home) if home else "a temporary home"
    data = {"model": chosen.source, "home": home and str(home), "dry_run": True}
    return Answer(data, f"Would {first}tell the story on {chosen.source} in {where}.")
