"""``engrain config``: every setting with its origin, and the schema of the files."""

from __future__ import annotations

import json

from engrain.cli.session import Answer, Session, Settings, overrides, verb


@verb("show", examples="engrain config show\nengrain config show --set gate.min_recall=0.9")
def show(session: Session, set_: Settings = None) -> Answer:
    """Show every setting, its value, and where that comes from.

    Flags win over ENGRAIN_SECTION__KEY, ./engrain.toml, the home's config.toml and the defaults,
    in this order.
    """
    from engrain.config import resolve

    found = resolve(session.flags.home, overrides(set_))
    rows = [(key, value, str(origin)) for key, value, origin in found.rows()]
    data = {
        "home": str(found.home),
        "digest": found.digest,
        "settings": {key: {"value": value, "origin": origin} for key, value, origin in rows},
    }
    name_width = max(len(key) for key, _, _ in rows)
    shown = [(key, json.dumps(value, ensure_ascii=False), origin) for key, value, origin in rows]
    value_width = max(len(value) for _, value, _ in shown)
    lines = [f"{k:<{name_width}}  {v:<{value_width}}  {o}".rstrip() for k, v, o in shown]
    return Answer(data, "\n".join(lines), [key for key, _, _ in rows])


@verb("schema", examples="engrain config schema > engrain.schema.json")
def schema(session: Session) -> Answer:
    """Print the JSON schema of engrain.toml and config.toml."""
    from engrain.config import json_schema

    found = json_schema()
    return Answer(found, json.dumps(found, indent=2, ensure_ascii=False))
