"""The folder of one home: its settings, ledger and log, and the model that it was made with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engrain.config import HOME_FILE, Origin, Resolved, home_folder, resolve, to_toml
from engrain.errors import HomeExistsError, HomeNotFoundError
from engrain.ledger.blobs import BlobStore
from engrain.ledger.ledger import Ledger
from engrain.ledger.lock import HomeLock, make_writable, named_errors
from engrain.memory.log import ChatLog

if TYPE_CHECKING:
    from engrain.model.loading import LoadedModel

LEDGER_FILE = "ledger.db"
POCKET = "pocket"

Where = str | Path | None
"""A home's folder, or where settings or the system say that it is."""
Overrides = Mapping[str, Any] | None
"""Settings by dotted name, over those of the file and the environment."""


class HomeFolder:
    """What lies in the folder of a home."""

    def __init__(self, resolved: Resolved, *, create: bool = False) -> None:
        self.resolved = resolved
        self.config = resolved.config
        self.path = resolved.home
        self.lock = HomeLock(self.path / "lock")
        self.blobs = BlobStore(self.path / "blobs")
        url = self.config.ledger.url or self.path / LEDGER_FILE
        self.ledger = Ledger(url, self.blobs, lock=self.lock, create=create)
        self.log = ChatLog(self.path / "log")

    @classmethod
    def prepare(cls, path: Where, overrides: Overrides) -> tuple[Resolved, LoadedModel]:
        """Settings and model of a home to be made, if there is room for one.

        Raises:
            HomeExistsError: the folder holds a home already.
        """
        resolved = resolve(home_folder(path), overrides)
        if cls._begun(resolved):
            raise HomeExistsError(
                f"{resolved.home} is a home already.",
                remedy="Use it as it is, or give another folder with --home.",
            )
        source = Path(resolved.config.model.source).expanduser()
        # A relative path would mean another folder as soon as a command runs elsewhere.
        known = resolved.config.model.source == POCKET or not source.is_dir()
        return resolved, load(resolved, None if known else str(source.resolve()))

    @classmethod
    def _begun(cls, resolved: Resolved) -> bool:
        """Whether there is a home; one whose making was interrupted is none."""
        if resolved.config.ledger.url or not (resolved.home / LEDGER_FILE).exists():
            return False
        folder = cls(resolved)
        try:
            return bool(folder.ledger.history())
        finally:
            folder.ledger.close()

    @classmethod
    def make(cls, resolved: Resolved, source: str) -> HomeFolder:
        """The folder with its settings and an empty ledger."""
        make_writable(resolved.home)
        folder = cls(resolved, create=True)
        settings = folder.path / HOME_FILE
        if not settings.exists():
            given = {**resolved.flags(), "model.source": source}
            with named_errors(settings):
                settings.write_text(to_toml(given), encoding="utf-8")
        return folder

    @classmethod
    def open(cls, path: Where, overrides: Overrides) -> HomeFolder:
        """A folder that holds a home.

        Raises:
            HomeNotFoundError: it holds none.
        """
        folder = home_folder(path)
        resolved = resolve(folder, overrides)
        if not (resolved.config.ledger.url or (folder / LEDGER_FILE).exists()):
            raise HomeNotFoundError(
                f"There is no home in {folder}.",
                remedy="Make one with `engrain init`, or give another folder with --home.",
            )
        return cls(resolved)

    def load(self) -> LoadedModel:
        """The base model, checked against the digest that the home was made with."""
        source = self.ledger.base().source
        if self.resolved.origins.get("model.source", Origin("default")).kind == "home file":
            # A model folder may have moved; the digest tells whether it is the same model.
            source = self.config.model.source
        loaded = load(self.resolved, source)
        self.ledger.check_base(loaded.base_digest)
        return loaded


def load(resolved: Resolved, source: str | None = None) -> LoadedModel:
    """The base model as settings ask for it, from another ``source`` if one is given."""
    from engrain.model.hardware import set_compute
    from engrain.model.kernels import set_kernels
    from engrain.model.loading import load_model
    from engrain.model.threads import set_threads

    model = resolved.config.model
    set_threads(model.threads or None)
    set_compute(model.compute)
    set_kernels(model.kernels)
    return load_model(
        source or model.source,
        dtype=model.dtype,
        local_only=model.local_only,
        device=model.device,
    )
