"""Files, archives and folders: what lies in them, opened one by one, and nothing else followed.

Nothing is unpacked onto the disk but a log that must be a file, and no link is followed. What can't
be read is named and left out; it stops nothing else.
"""

from __future__ import annotations

import codecs
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from engrain.data.sources.found import Place, Skip
from engrain.errors import ConversationError

MAX_UNPACKED = 8 << 30
"""Bytes that an archive may hold in all; what comes beyond them is left out."""
BOMB = 2 << 30
"""Bytes of one member from which on it must not be packed to less than a 200th."""
MAX_RATIO = 200
MAX_MEMBERS = 100_000
"""Members of an archive at most."""
MAX_PIPE = 1 << 30
"""Bytes that are taken from a pipe at most."""
HEAD = 4096
"""Bytes by which the kind of a file is told."""
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
NO_FILE = "it is no file that can be read"
UNSUPPORTED = "it is packed in a way that can't be read, or locked with a password"


@dataclass(frozen=True, slots=True)
class Item:
    """One file: its name as it is told, and how to open it.

    ``archive`` is the name of the archive that it lies in. ``path`` is where it is on the disk, if
    it is there.
    """

    name: str
    open: Callable[[], BinaryIO]
    archive: str = ""
    path: Path | None = None

    @property
    def place(self) -> Place:
        """The place of the whole file."""
        return Place(self.name)

    def head(self) -> bytes:
        """Its first bytes."""
        with self.open() as file:
            return file.read(HEAD)


class Decoded:
    """The text of a file, by its byte order mark or its first characters; else it is UTF-8.

    Bytes that are no UTF-8 become lone surrogates, so that only what they stand in is left out.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._ahead = file.read(4)
        name = encoding_of(self._ahead)
        errors = "surrogateescape" if name.startswith("utf-8") else "replace"
        self._decoder = codecs.getincrementaldecoder(name)(errors)

    def read(self, size: int, /) -> str:
        """The next characters, about as many as asked for."""
        ahead, self._ahead = self._ahead, b""
        while True:
            raw = self._file.read(size)
            text = self._decoder.decode(ahead + raw, final=not raw)
            ahead = b""
            if text or not raw:
                return text


_BY_ZEROS: dict[tuple[bool, ...], str] = {
    (False, True, False, True): "utf-16-le",
    (True, False, True, False): "utf-16-be",
    (False, True, True, True): "utf-32-le",
    (True, True, True, False): "utf-32-be",
}


def encoding_of(head: bytes) -> str:
    """The encoding of a text by its first four bytes."""
    for mark, name in (
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(mark):
            return name
    # Without a mark the zeros tell, since JSON and labels begin with ASCII: all four bytes, for a
    # single zero may stand where a disk lost one.
    return _BY_ZEROS.get(tuple(not byte for byte in head[:4]), "utf-8-sig")


def is_binary(head: bytes) -> bool:
    """Whether the first bytes of a file are those of no text, nor of JSON with damaged places."""
    if b"\0" not in head or not encoding_of(head[:4]).startswith("utf-8"):
        return False
    return not head.removeprefix(codecs.BOM_UTF8).lstrip().startswith((b"[", b"{"))


@contextmanager
def on_disk(item: Item) -> Iterator[Path]:
    """The file as one on the disk; of an archive's member a copy that is gone afterwards."""
    if item.path is not None:
        yield item.path
        return
    with tempfile.TemporaryDirectory(prefix="engrain-") as folder, item.open() as file:
        copy = Path(folder) / "copy"
        with copy.open("wb") as out:
            shutil.copyfileobj(file, out)
        yield copy


@contextmanager
def contents(given: Path | str) -> Iterator[Iterator[list[Item | Skip]]]:
    """What lies at a path, in groups: a file by itself, an archive, or a folder.

    Raises:
        ConversationError: there is nothing, or it can't be read.
    """
    with ExitStack() as stack:
        try:
            if not str(given):
                raise OSError(0, NO_FILE)
            path = Path(given)
            kind = path.stat().st_mode
            if stat.S_ISDIR(kind):
                os.listdir(path)
                yield _folder(path, stack)
                return
            if not stat.S_ISREG(kind):
                path = _from_pipe(path, kind, stack)
            item = _file(path)
            head = item.head()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConversationError(
                f"{str(given)!r} can't be read: {reason}.",
                remedy="Give the path of a file, an archive (.zip) or a folder.",
            ) from error
        yield _one(item, head, stack)


def _file(path: Path) -> Item:
    return Item(str(path), lambda: cast(BinaryIO, path.open("rb")), path=path)


def _one(item: Item, head: bytes, stack: ExitStack) -> Iterator[list[Item | Skip]]:
    yield list(_archive(item, stack)) if head.startswith(ZIP) else [item]


def _from_pipe(path: Path, kind: int, stack: ExitStack) -> Path:
    """A copy of what comes out of a pipe, which can be read only once."""
    if not stat.S_ISFIFO(kind):
        raise OSError(0, NO_FILE)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="engrain-"))
    copy = Path(folder) / "piped"
    with path.open("rb") as pipe, copy.open("wb") as out:
        left = MAX_PIPE
        while left and (piece := pipe.read(min(left, 1 << 20))):
            out.write(piece)
            left -= len(piece)
    return copy


def _folder(path: Path, stack: ExitStack) -> Iterator[list[Item | Skip]]:
    """The files of a folder and those below it, a group a folder, by name."""
    for place, folders, names in os.walk(path, onerror=None):
        group: list[Item | Skip] = []
        for name in sorted(folders):
            if os.path.islink(os.path.join(place, name)):
                group.append(Skip(Place(os.path.join(place, name)), "a link: it is not followed"))
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n != "__MACOSX")
        for name in sorted(names):
            file = Path(place) / name
            if name.startswith("."):
                continue
            try:
                kind = file.lstat().st_mode
                if stat.S_ISLNK(kind):
                    group.append(Skip(Place(str(file)), "a link: it is not followed"))
                elif not stat.S_ISREG(kind):
                    group.append(Skip(Place(str(file)), NO_FILE))
                elif (item := _file(file)).head().startswith(ZIP):
                    # An archive is a group of its own: what was attached is told by what is in it.
                    yield list(_archive(item, stack))
                else:
                    group.append(item)
            except (OSError, ValueError) as error:
                group.append(Skip(Place(str(file)), f"it can't be read: {error}"))
        if group:
            yield group


def _archive(item: Item, stack: ExitStack) -> Iterator[Item | Skip]:
    try:
        archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(item.open())))
        members = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        yield Skip(item.place, f"it is a damaged archive: {error}")
        return
    unpacked = 0
    for number, member in enumerate(members):
        name = f"{item.name}/{member.filename}"
        if number >= MAX_MEMBERS:
            yield Skip(item.place, f"{len(members) - number:,} more files in it are not read")
            return
        reason = _unfit(member)
        if not reason and not member.is_dir():
            unpacked += member.file_size
            if unpacked > MAX_UNPACKED:
                reason = f"the archive holds more than {MAX_UNPACKED:,} bytes up to here"
        if reason:
            yield Skip(Place(name), reason)
        elif not member.is_dir() and not _of_the_system(member.filename):
            yield Item(name, _opener(archive, member), archive=item.name)


def _opener(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], BinaryIO]:
    return lambda: cast(BinaryIO, archive.open(member))


def _of_the_system(name: str) -> bool:
    parts = name.split("/")
    return parts[0] == "__MACOSX" or parts[-1].startswith(".")


def _unfit(member: zipfile.ZipInfo) -> str:
    """Why a member of an archive is not read; "" if it is."""
    name = member.orig_filename
    drive = len(name) > 1 and name[1] == ":"
    if drive or "\0" in name or name.startswith(("/", "\\")):
        return "its name leaves the archive"
    if ".." in name.replace("\\", "/").split("/"):
        return "its name leaves the archive"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link: it is not followed"
    if member.flag_bits & 0x1:
        return "it is locked with a password"
    if member.file_size > BOMB and member.file_size > MAX_RATIO * max(1, member.compress_size):
        return f"it would unpack to {member.file_size:,} bytes, {MAX_RATIO} times its size or more"
    return ""
