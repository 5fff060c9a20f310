"""Learn to mastery: steps go where the lesson is not known yet, and end when all of it is.

A text is known when every token of its target had a probability above one half when it was last
trained on: then greedy decoding says it, token by token. That costs nothing, since a step computes
these probabilities anyway. The texts that are not known come first, those longest unseen before
others; the known ones fill what is left of a batch, so that they are kept. (Mastery learning:
Bloom, 1968; selection of what is not learned yet: Katharopoulos and Fleuret, arXiv 1803.00942.)

Two things keep steps from what they can't buy. A wording that is known when it is first seen shows
that its fact is known in words that were never trained: after ``GENERAL`` of them in a row the
fact's wordings that are still unseen count as known. And a text that is not known after ``TRIES``
times, while most others are, does not keep them waiting: the fact does not answer it, or badly.
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
GENERAL = 2
"""Wordings of a fact in a row that are known at first sight, after which the unseen ones are."""
TRIES = 6
"""Times that a text is trained on before training may end without it, ..."""
MOST = 0.75
"""... where this share of the texts is known: before, it is the learning that is slow."""


class Mastery:
    """What of a lesson is known; chooses what each step trains on.

    ``known`` says of each text whether it is taken for known at the start: in a second round, what
    the first has taught. ``groups`` are the facts of the texts, by default each its own.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        setting: Setting,
        known: Sequence[bool] = (),
        groups: Sequence[str] = (),
    ) -> None:
        count = len(examples)
        groups = groups or [str(place) for place in range(count)]
        self._examples = list(examples)
        names = list(dict.fromkeys(groups))
        self._group = torch.tensor([names.index(group) for group in groups], dtype=torch.int64)
        self._known = torch.tensor(known or [False] * count, dtype=torch.bool)
        self._seen = torch.full((count,), -1, dtype=torch.int64)
        self._times = torch.zeros(count, dtype=torch.int64)
        self._at_sight = torch.zeros(len(names), dtype=torch.int64)
        self._order = list(range(count))
        setting.rng("mastery").shuffle(self._order)
        self._chosen: list[int] = []

    @property
    def done(self) -> bool:
        """Whether each text is known, or given up."""
        return bool((self._taken_for_known() | self._given_up()).all())

    @property
    def known(self) -> int:
        """How many texts are known."""
        return int(self._taken_for_known().sum())

    def _taken_for_known(self) -> Tensor:
        """Texts that are known, and unseen ones of facts that were known at sight, ``(texts,)``."""
        general = (self._at_sight >= GENERAL)[self._group] & (self._seen < 0)
        return self._known | general

    def _given_up(self) -> Tensor:
        """Texts that are not known after so many times, while most others are, ``(texts,)``."""
        known = self._taken_for_known()
        return (self._times >= TRIES) & ~known & bool(known.float().mean() >= MOST)

    def draw(self, count: int, missing: str = "") -> list[Example]:
        """The texts of the next step: unknown before known, longest unseen first.

        Those of an earlier lesson that is ``missing`` from the weights are left out.
        """
        place = {index: at for at, index in enumerate(self._order)}
        present = [i for i in self._order if not missing or self._examples[i].lesson != missing]
        known = (self._taken_for_known() | self._given_up()).tolist()
        seen = self._seen.tolist()
        ranked = sorted(present, key=lambda i: (known[i], seen[i], place[i]))
        self._chosen = ranked[:count]
        return [self._examples[i] for i in self._chosen]

    def saw(self, hardest: Tensor, step: int) -> None:
        """Take the loss of the hardest token of each text drawn, ``(texts,)``, in nats."""
        for index, loss in zip(self._chosen, hardest.tolist(), strict=True):
            known, group = loss < KNOWN_BELOW, self._group[index]
            if self._seen[index] < 0:
                self._at_sight[group] = self._at_sight[group] + 1 if known else 0
            self._known[index] = known
            self._seen[index] = step
            self._times[index] += 1

    def state_dict(self) -> dict[str, Tensor]:
        """What was seen when and how often, and what is known."""
        return {
            "known": self._known.to(torch.uint8),
            "seen": self._seen,
            "times": self._times,
            "at_sight": self._at_sight,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self._known = state["known"].bool()
        self._seen, self._times = state["seen"].clone(), state["times"].clone()
        self._at_sight = state["at_sight"].clone()
