"""Learn to mastery: steps go where the lesson is not known yet, and end when all of it is.

A text is known when every token of its target had a probability above one half when it was last
trained on: then greedy decoding says it, token by token. That costs nothing, since a step computes
these probabilities anyway. The texts that are not known come first, those longest unseen before
others; the known ones fill what is left of a batch, so that they are kept. (Mastery learning:
Bloom, 1968; selection of what is not learned yet: Katharopoulos and Fleuret, arXiv 1803.00942.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from engrain.data.examples import Example
    from engrain.learn.technique import Setting

KNOWN_BELOW = math.log(2)
"""Nats of the hardest token of a target below which greedy decoding says the target."""


class Mastery:
    """What of a lesson is known; chooses what each step trains on.

    ``known`` says of each text whether it is taken for known at the start: in a second round, what
    the first has taught.
    """

    def __init__(
        self, examples: Sequence[Example], setting: Setting, known: Sequence[bool] = ()
    ) -> None:
        self._examples = list(examples)
        self._known = torch.tensor(known or [False] * len(self._examples), dtype=torch.bool)
        self._seen = torch.full((len(self._examples),), -1, dtype=torch.int64)
        self._order = list(range(len(self._examples)))
        setting.rng("mastery").shuffle(self._order)
        self._chosen: list[int] = []

    @property
    def done(self) -> bool:
        """Whether every text was known when it was last trained on."""
        return bool(self._known.all())

    @property
    def known(self) -> int:
        """How many texts are known."""
        return int(self._known.sum())

    def draw(self, count: int, missing: str = "") -> list[Example]:
        """The texts of the next step: unknown before known, longest unseen first.

        Those of an earlier lesson that is ``missing`` from the weights are left out.
        """
        place = {index: at for at, index in enumerate(self._order)}
        present = [i for i in self._order if not missing or self._examples[i].lesson != missing]
        ranked = sorted(present, key=lambda i: (bool(self._known[i]), int(self._seen[i]), place[i]))
        self._chosen = ranked[:count]
        return [self._examples[i] for i in self._chosen]

    def saw(self, hardest: Tensor, step: int) -> None:
        """Take the loss of the hardest token of each text drawn, ``(texts,)``, in nats."""
        for index, loss in zip(self._chosen, hardest.tolist(), strict=True):
            self._known[index] = loss < KNOWN_BELOW
            self._seen[index] = step

    def state_dict(self) -> dict[str, Tensor]:
        """What was seen when, and what is known."""
        return {"known": self._known.to(torch.uint8), "seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self._known = state["known"].bool()
        self._seen = state["seen"].clone()
