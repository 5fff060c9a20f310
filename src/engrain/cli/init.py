"""``engrain init``: make a home."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
from engrain.errors import ModelNotFoundError

if TYPE_CHECKING:
    from engrain.model.catalogue import Entry

EXAMPLES = """
engrain init
engrain init --model pocket
engrain init --home ~/work --model Qwen/Qwen3-0.6B
engrain init --model ~/models/my-model --set model.threads=4
"""


@verb("init", examples=EXAMPLES)
def init(
    session: Session,
    model: ModelOption = None,
    set_: Settings = None,
    dry_run: DryRun = False,
) -> Answer:
    """Make a home: a folder for one model and all that it will learn.

    Without --model it is qwen2.5-coder-0.5b. A model of the catalogue that is not here is got
    first. It is loaded once and its digest recorded. What is set here is written into the home's
    config.toml.
    """
    from engrain.config import resolve
    from engrain.home import Home

    wanted = {"model.source": model, **overrides(set_)}
    resolved = resolve(session.flags.home, wanted)
    chosen = resolved.config.model
    missing = None if chosen.local_only else missing_model(chosen)
    if dry_run:
        try:
            plan = Home.plan(session.flags.home, overrides=wanted)
        except ModelNotFoundError:
            if missing is None:
                raise
            return _planned_with(missing, str(resolved.home))
        words = f"Would make a home in {plan['home']} with {plan['model']} ({_short(plan)})."
        return Answer({**plan, "dry_run": True}, words, [plan["home"]])
    get_first(session, chosen)
    with Home.create(session.flags.home, overrides=wanted) as home:
        base, state = home.ledger.base(), home.state
        data = {
            "home": str(home.path),
            "model": base.source,
            "base_digest": base.digest,
            "state": state.digest,
        }
        begins = "".join(f" It begins with {lesson.title}." for lesson in home.lessons())
    words = f"Made a home in {data['home']} with {data['model']} ({_short(data)}).{begins}"
    return Answer(data, words, [data["home"]])


def _planned_with(item: Entry, home: str) -> Answer:
    """The plan for a home whose model must be got first."""
    data: dict[str, Any] = {
        "home": home,
        "model": item.name,
        "base_digest": item.base_digest,
        "download_bytes": item.bytes,
        "dry_run": True,
    }
    words = f"Would get {item.name} ({download(item)}) and make a home in {home} with it."
    return Answer(data, words, [home])


def _short(data: dict[str, str]) -> str:
    return f"digest {data['base_digest'][:12]}"
