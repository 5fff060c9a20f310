"""The weights in force: the model holds the fold of the base and the ledger's active adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from engrain.errors import StateMismatchError
from engrain.learn.fold import fold
from engrain.model.adapter import Adapter
from engrain.model.digest import tensor_digest

if TYPE_CHECKING:
    from torch import Tensor

    from engrain.ledger.ledger import Ledger
    from engrain.ledger.records import Plan
    from engrain.model.engine import Engine
    from engrain.model.loading import LoadedModel


MANNERS = "manners"
"""The recipe of lesson zero (:mod:`engrain.lesson.zero`)."""


class Served:
    """Keeps the live weights, the engine's caches and the ledger's state in step.

    Digests of states are taken over fp32 weights, whatever type the model computes in.
    """

    def __init__(self, loaded: LoadedModel, engine: Engine, ledger: Ledger) -> None:
        self.loaded = loaded
        self.engine = engine
        self._ledger = ledger
        self._digest = ""
        self._aside: dict[str, Tensor] = {}
        loaded.ground = self._ground

    def adapters(self, digests: Sequence[str]) -> list[Adapter]:
        """The stored adapters of these digests, in order."""
        return [Adapter.from_bytes(self._ledger.blobs.get(digest)) for digest in digests]

    def learned(self) -> list[tuple[str, str]]:
        """The lessons in force and the digests of their adapters, in order, but lesson zero."""
        state, zero = self._ledger.current(), self._zero()
        pairs = zip(state.lessons, state.adapters, strict=True)
        return [pair for pair in pairs if pair[0] != zero]

    @property
    def mannered(self) -> bool:
        """Whether lesson zero is in force."""
        return bool(self._zero())

    def _zero(self) -> str:
        """The id of lesson zero, "" where none is in force."""
        state = self._ledger.current()
        first = state.lessons[:1]
        found = [n for n in first if self._ledger.get_entry(n).recipe.get("name") == MANNERS]
        return found[0] if found else ""

    def _ground(self) -> Mapping[str, Tensor]:
        """The weights of before all lessons but lesson zero, as far as that is in force."""
        state = self._ledger.current()
        if self._digest == state.digest and not self.learned():
            # In a first lesson they are those in force: nothing is folded.
            return self.loaded.weights()
        if not self._zero():
            return self.loaded.stored()
        return self._folded(self.adapters(state.adapters[:1]))

    def fold(self, adapters: Sequence[str]) -> tuple[dict[str, Tensor], str]:
        """The weights that adapters (digests, in order) give over the base, and their digest."""
        weights = self._folded(self.adapters(adapters))
        return weights, tensor_digest(weights)

    def _folded(self, adapters: Sequence[Adapter]) -> dict[str, Tensor]:
        """The fold in fp32, straight from the stored weights: they are in memory but once."""
        return fold(self.loaded.stored(), adapters, dtype=torch.float32)

    def fold_digest(self, adapters: Sequence[str]) -> str:
        """The digest alone: what ``Ledger.verify`` asks for."""
        return self.fold(adapters)[1]

    def refresh(self) -> str:
        """Put the state in force into the model, if it is not there; gives its digest.

        Raises:
            StateMismatchError: the fold is not what was accepted; the model keeps its weights.
        """
        state = self._ledger.current()
        if state.digest != self._digest:
            weights, digest = self.fold(state.adapters)
            if digest != state.digest:
                raise StateMismatchError(
                    f"The weights of the state {state.digest[:12]} fold to {digest[:12]}.",
                    remedy="Run `engrain lessons verify`: it names what was changed.",
                )
            self.loaded.set_weights(weights)
            self._known(digest)
        return self._digest

    def apply(self, plan: Plan) -> str:
        """Make a planned change of what is served; gives the digest of the state after it."""
        # The weights in force need not fold: a lesson whose file is damaged can be taken out.
        digest = self.fold_digest(plan.adapters)
        self._ledger.apply(plan, digest)
        self.refresh()
        return digest

    @contextmanager
    def candidate(self, weights: dict[str, Tensor], digest: str) -> Iterator[bool]:
        """Hold other weights for an exam; the state in force comes back afterwards.

        Gives whether they differ from those in force, in the type that the model computes in.
        ``weights`` is emptied: they and those that are kept aside are not in memory together.
        """
        outer, old = self._aside, self._digest
        self._aside = {}
        try:
            self._exchange(weights, digest)
            yield bool(self._aside)
        finally:
            self.loaded.put_back(self._aside)
            self._aside = outer
            self._known(old)

    @contextmanager
    def base(self) -> Iterator[None]:
        """Hold the base weights, the untaught model, for a while."""
        weights, digest = self.fold(())
        with self.candidate(weights, digest):
            yield

    def show(self, adapters: Sequence[Adapter]) -> str:
        """Hold the fold of adapters that are in no ledger, inside :meth:`base`; its digest."""
        weights = self._folded(adapters)
        digest = tensor_digest(weights)
        self._exchange(weights, digest)
        return digest

    def _exchange(self, weights: dict[str, Tensor], digest: str) -> None:
        self.loaded.exchange(weights, self._aside)
        self._known(digest)

    def _known(self, digest: str) -> None:
        self.engine.set_state(digest)
        self._digest = digest
