"""``engrain init``: make a home."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from engrain.cli.session import Answer, DryRun, Session, Settings, overrides, verb

EXAMPLES = """
engrain init
engrain init --model qwen2.5-coder-0.5b
engrain init --home ~/work --model Qwen/Qwen3-0.6B
engrain init --model ~/models/my-model --set model.threads=4
"""


@verb("init", examples=EXAMPLES)
def init(
    session: Session,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="'pocket', a name from `engrain models list`, a folder, a GGUF file, a hub id.",
        ),
    ] = None,
    set_: Settings = None,
    dry_run: DryRun = False,
) -> Answer:
    """Make a home: a folder for one model and all that it will learn.

    The model is loaded once and its digest recorded; one of the catalogue is got first, if it is
    not here. What is set here is written into the home's config.toml.
    """
    from engrain.home import Home

    wanted = {"model.source": model, **overrides(set_)}
    if dry_run:
        plan = Home.plan(session.flags.home, overrides=wanted)
        words = f"Would make a home in {plan['home']} with {plan['model']} ({_short(plan)})."
        return Answer({**plan, "dry_run": True}, words, [plan["home"]])
    _get(session, wanted)
    with Home.create(session.flags.home, overrides=wanted) as home:
        base, state = home.ledger.base(), home.state
        data = {
            "home": str(home.path),
            "model": base.source,
            "base_digest": base.digest,
            "state": state.digest,
        }
    words = f"Made a home in {data['home']} with {data['model']} ({_short(data)})."
    return Answer(data, words, [data["home"]])


def _get(session: Session, wanted: dict[str, Any]) -> None:
    """Get the model first, if it is one of the catalogue and not here yet."""
    from engrain.cli.models import fetch
    from engrain.config import resolve
    from engrain.model import catalogue
    from engrain.model.disk import megabytes

    chosen = resolve(session.flags.home, wanted).config.model
    if chosen.source in catalogue.names() and not chosen.local_only:
        item = catalogue.entry(chosen.source)
        if not catalogue.is_here(item):
            session.note(f"{item.name} is not here yet: getting {megabytes(item.bytes)} MB.")
            fetch(session, item)


def _short(data: dict[str, str]) -> str:
    return f"digest {data['base_digest'][:12]}"
