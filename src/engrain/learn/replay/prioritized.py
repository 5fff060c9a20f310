"""Prioritized replay: the earlier facts that the model has lost most come most often.

Source: prioritized experience replay (Schaul et al., arXiv 1511.05952), equation 1,

    P(i) = p_i^alpha / sum_k p_k^alpha,    p_i = loss_i + floor * mean loss,

with the negative log-likelihood of the answer in place of the temporal-difference error. The unit
is the fact: all wordings of one share its priority, and the wording is drawn evenly. Priorities are
measured once, on the weights before the lesson: what a lesson has damaged, the next one repairs.
The importance weights of the source (its section 3.4, exponent beta) are left out (beta = 0): they
make an estimate of the mean unbiased, and here the bias is what is wanted.

Like the reservoir, it is a pure function of the ledger's active lessons, the weights and the seed,
so that an undone lesson leaves no trace in it. Memory: one number a fact. Time: ``looks`` forward
passes a fact before the lesson, ``share`` more sequences in each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engrain.data.examples import Batch, Example
from engrain.data.lessons import TrainingText
from engrain.learn.compute import autocast, hidden_states, losses_of
from engrain.learn.registry import register
from engrain.learn.replay.reservoir import current
from engrain.learn.technique import Replay, Setting, option

BATCH = 32
"""Texts of one forward pass while priorities are measured."""


@dataclass(frozen=True)
class PrioritizedConfig:
    """Hyper-parameters of prioritized replay."""

    share: float = option(1.0, "replayed texts for each new text of a batch", low=0.0, high=64.0)
    alpha: float = option(0.6, "how far priorities count; 0 replays all facts evenly", low=0.0)
    floor: float = option(0.25, "least priority, in mean losses", low=0.0)
    looks: int = option(2, "wordings of a fact that are looked at for its priority", low=1)


@register("prioritized")
class Prioritized(Replay):
    """Replay of earlier lessons' facts by how badly they are answered now."""

    Config = PrioritizedConfig

    def prepare(self, setting: Setting) -> None:
        """Measure the loss of every earlier fact that still holds."""
        self._setting = setting
        self._count = round(self.config.share * setting.batch_size)
        self._facts: list[tuple[str, list[TrainingText]]] = []
        for lesson, texts in current(setting.earlier, setting.lesson):
            groups: dict[str, list[TrainingText]] = {}
            for text in texts:
                groups.setdefault(text.group or text.question, []).append(text)
            self._facts += [(lesson.id, list(dict.fromkeys(found))) for found in groups.values()]
        self.weights = priorities(self._losses(), self.config.alpha, self.config.floor)

    def draw(self, step: int) -> Sequence[Example]:
        """This step's share: facts by their priorities, a wording of each evenly."""
        if not self._facts or not self._count:
            return []
        rng = self._setting.rng("prioritized", step)
        chosen = rng.choices(self._facts, self.weights, k=self._count)
        return [self._setting.encode(rng.choice(texts), lesson) for lesson, texts in chosen]

    def _losses(self) -> list[float]:
        """The mean negative log-likelihood of each fact's answer, over some of its wordings."""
        rows: list[tuple[int, Example]] = []
        for number, (lesson, texts) in enumerate(self._facts):
            rng = self._setting.rng("prioritized", "look", number)
            for text in rng.sample(texts, min(self.config.looks, len(texts))):
                rows.append((number, self._setting.encode(text, lesson)))
        # Texts of like length together, so that few are padded.
        rows.sort(key=lambda row: len(row[1]))
        found: list[list[float]] = [[] for _ in self._facts]
        for at in range(0, len(rows), BATCH):
            part = rows[at : at + BATCH]
            batch = Batch.of([example for _, example in part], self._setting.loaded.pad_id)
            with torch.no_grad(), autocast():
                losses = losses_of(*hidden_states(self._setting.loaded, batch))
            counts = batch.loss_mask.sum(-1).tolist()
            for (number, _), each in zip(part, losses.split(counts), strict=True):
                found[number].append(float(each.sum()))
        return [sum(each) / len(each) for each in found]


def priorities(losses: Sequence[float], alpha: float, floor: float) -> list[float]:
    """Probabilities of facts from their losses; even where nothing was lost."""
    if not losses:
        return []
    least = floor * sum(losses) / len(losses)
    powers = [float((loss + least) ** alpha) for loss in losses]
    whole = sum(powers)
    return [power / whole if whole else 1 / len(powers) for power in powers]
