"""Content-addressed files: a blob's name is the SHA-256 of its bytes.

A blob appears under its name only when all of its bytes are on the disk (temporary file, fsync,
rename, fsync of the folder), is never changed afterwards, and is checked at every read. So a kill
at any moment leaves either the whole blob or none, and damage is found before it is used.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from engrain.errors import BlobCorruptError, BlobMissingError, EngrainError
from engrain.ledger.lock import os_error
from engrain.ledger.records import Problem, sha256

_CHUNK = 1 << 20
_TEMPORARY = "tmp"
_STALE_SECONDS = 3600.0
_DIGEST = re.compile(r"[0-9a-f]{64}")
_RESTORE = "Restore the blobs folder from a backup."


class BlobStore:
    """A folder of content-addressed files, sharded by the first two characters of the digest.

    Example:
        >>> import tempfile
        >>> store = BlobStore(Path(tempfile.mkdtemp()) / "blobs")
        >>> store.get(store.put(b"hello"))
        b'hello'
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be."""
        if not _DIGEST.fullmatch(digest):
            raise BlobMissingError(
                f"{digest!r} is not the digest of a blob.", remedy="Give 64 hexadecimal digits."
            )
        return self.folder / digest[:2] / digest[2:]

    def put(self, raw: bytes) -> str:
        """Keep bytes and return their digest; when it returns, they are on the disk.

        Putting the same bytes again changes nothing, but mends a blob that was damaged.

        Raises:
            DiskFullError: no space is left; nothing appears under the digest.
            HomeReadOnlyError: the folder can't be written.
        """
        digest = sha256(raw)
        path = self.path(digest)
        if self._intact(digest):
            # An earlier put may have been killed between its rename and the folder's fsync.
            try:
                _sync_folder(path.parent)
                _sync_folder(self.folder)
            except OSError as error:
                # On a read-only disk nothing can be pending either.
                if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                    raise os_error(error, path, "write") from error
            return digest
        temporary = self.folder / _TEMPORARY / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            self._prepare(path.parent)
            self._prepare(temporary.parent)
            _write_durably(temporary, raw)
            os.replace(temporary, path)
            _sync_folder(path.parent)
            _sync_folder(self.folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise os_error(error, path, "write") from error
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes of a blob, checked against its digest.

        Raises:
            BlobMissingError: there is no such file.
            BlobCorruptError: the file's bytes have another digest, or can't be read.
        """
        path = self.path(digest)
        try:
            raw = path.read_bytes()
        except FileNotFoundError as error:
            raise BlobMissingError(
                f"The blob {digest[:12]} is gone ({path}).", remedy=_RESTORE, digest=digest
            ) from error
        except OSError as error:
            raise self._corrupt(digest, error.strerror or str(error)) from error
        if sha256(raw) != digest:
            raise self._corrupt(digest, f"its {len(raw):,} bytes have another digest")
        return raw

    def has(self, digest: str) -> bool:
        """Whether a file of that name is there; its bytes are not read."""
        return self.path(digest).is_file()

    def size(self, digest: str) -> int:
        """Bytes of a blob."""
        return self.path(digest).stat().st_size if self.has(digest) else 0

    def digests(self) -> list[str]:
        """Digests of all blobs, sorted."""
        return sorted(self._names())

    def verify(self, digests: Collection[str] | None = None) -> list[Problem]:
        """Read the blobs (all by default) and say which are missing or damaged."""
        problems = []
        for digest in sorted(self._names() if digests is None else digests):
            try:
                self._check(digest)
            except EngrainError as error:
                problems.append(Problem(error.code, digest, error.message, error.remedy))
        return problems

    def garbage(self, referenced: Collection[str]) -> list[str]:
        """Digests of blobs that nothing refers to: what killed or failed runs left behind."""
        return sorted(set(self._names()) - set(referenced))

    def discard(self, digest: str) -> None:
        """Delete a blob; one that is gone already is no error."""
        path = self.path(digest)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise os_error(error, path, "delete") from error

    def clean(self) -> int:
        """Delete temporary files of runs that were killed; returns how many.

        Young ones are left alone, since another process may be writing them.
        """
        cleaned = 0
        with contextlib.suppress(FileNotFoundError):
            for entry in list(os.scandir(self.folder / _TEMPORARY)):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat().st_mtime > _STALE_SECONDS:
                        os.unlink(entry.path)
                        cleaned += 1
        return cleaned

    def _names(self) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError):
            for shard in os.scandir(self.folder):
                if len(shard.name) == 2 and shard.is_dir():
                    names = (shard.name + entry.name for entry in os.scandir(shard.path))
                    yield from (name for name in names if _DIGEST.fullmatch(name))

    def _intact(self, digest: str) -> bool:
        if not self.has(digest):
            return False
        try:
            self._check(digest)
        except EngrainError:
            return False
        return True

    def _check(self, digest: str) -> None:
        # Adapters can be large: hash in pieces where the bytes themselves are not wanted.
        path = self.path(digest)
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError as error:
            raise BlobMissingError(
                f"The blob {digest[:12]} is gone ({path}).", remedy=_RESTORE, digest=digest
            ) from error
        except OSError as error:
            raise self._corrupt(digest, error.strerror or str(error)) from error
        if found != digest:
            raise self._corrupt(digest, "its bytes have another digest")

    def _corrupt(self, digest: str, reason: str) -> BlobCorruptError:
        return BlobCorruptError(
            f"The blob {digest[:12]} is damaged: {reason} ({self.path(digest)}).",
            remedy=_RESTORE,
            digest=digest,
        )

    def _prepare(self, folder: Path) -> None:
        if folder.is_dir():
            return
        folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(self.folder.parent)


def _write_durably(path: Path, raw: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        view = memoryview(raw)
        while view:
            view = view[os.write(file, view[:_CHUNK]) :]
        os.fsync(file)
    finally:
        os.close(file)


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
