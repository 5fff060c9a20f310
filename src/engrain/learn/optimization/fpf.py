"""FPF: at the end of a lesson, what drifted is fine-tuned on a small buffer of old and new texts.

Source: Zhao et al., "Does Continual Learning Equally Forget All Parameters?", ICML 2023, arXiv
2304.04158. A few modules change abruptly when the task changes; most change smoothly. So replay
need not come at every step nor move every weight. The last ``share`` of the steps is a *phase*:
its batches are drawn from a buffer instead of the lesson, and only the modules m that drift move.

    D_m(n) = (1 / |theta_m|) ||theta_m(n) - theta_m(n - 1)||_1     at look n, ``looks`` before it
    s_m    = D_m(1) / median over n > 1 of D_m(n).

A run of the learner is a task, so the first look shows the change over the task's boundary, and
those after it the change within the task. A module is a map or a norm with what belongs to it
(:func:`engrain.learn.blocks.unit_of`). Modules are taken by falling s_m while there is room in
``budget``, a share of all trained numbers; one that is too large is passed over. The score that the
source selects by could not be found: the ratio above stands in for it (inferred from its text).

The buffer is a reservoir (Vitter's algorithm R) over the facts of earlier lessons that still hold,
and those of this one. A phase has a constant learning rate and fresh optimizer state for what it
moves, which is dropped at its end (inferred). Phases take their steps from the recipe's, whose
schedule runs on below them: a run with phases costs no more than one without, and less where the
modules that move are few or high.

Memory: a copy of the trained weights for the next look, in their type, and 4 bytes for each module
and look. Time: ``looks`` passes over the weights, no per-step replay. Use it with recipes that have
no replay, against what one lesson does to the others; not where earlier texts are gone. ``budget``
0 is no fine-tuning, 1 is plain fine-tuning on the buffer. The source's figures are of images and
networks with batch norm; its tables were not at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from engrain.data.examples import Example
from engrain.learn.blocks import numbers, unit_of
from engrain.learn.registry import register
from engrain.learn.replay.reservoir import current, reservoir, walk
from engrain.learn.technique import Optimization, Rule, Setting, option

TINY = 1e-12
"""Least change within a task, per number: a module that stood still has drifted by any change."""


@dataclass(frozen=True)
class FpfConfig:
    """Hyper-parameters of fine-tuning what drifts."""

    share: float = option(0.25, "share of the steps that fine-tune on the buffer", low=0, high=0.9)
    budget: float = option(
        0.1, "most of the trained numbers that move in a phase, as a share", low=0.0, high=1.0
    )
    looks: int = option(8, "looks at the weights before each phase", low=1, high=1000)
    buffer: int = option(500, "texts of the buffer", low=1)
    pace: float = option(
        0.5, "learning rate of a phase as a share of the peak", low=0.0, high=100.0
    )


@dataclass(frozen=True)
class Cycle:
    """Ordinary steps from ``start``, then a phase from ``phase`` to before ``end``."""

    start: int
    phase: int
    end: int


def cycles(steps: int, count: int, share: float) -> list[Cycle]:
    """Equal parts of a run, each with a phase at its end and an ordinary step before that.

    There are no more of them than pairs of steps.
    """
    count = min(count, steps // 2)
    bounds = [steps * number // count for number in range(count + 1)] if count else []
    found = []
    for start, end in pairwise(bounds):
        length = min(max(1, round(share * (end - start))), end - start - 1) if share else 0
        found.append(Cycle(start, end - length, end))
    return found


@register("fpf")
class Fpf(Rule):
    """One phase of fine-tuning what drifts, at the end."""

    Config = FpfConfig

    def phases(self) -> int:
        """How many phases a run has."""
        return 1

    def prepare(
        self,
        parameters: Mapping[str, nn.Parameter],
        setting: Setting,
        optimization: Optimization,
    ) -> None:
        """Plan the phases, fill the buffer, remember the weights before the lesson."""
        super().prepare(parameters, setting, optimization)
        self._parameters = dict(parameters)
        self._cycles = cycles(setting.steps, self.phases(), self.config.share)
        self._units: dict[str, list[str]] = {}
        for name in sorted(parameters):
            self._units.setdefault(unit_of(name), []).append(name)
        earlier = current(setting.earlier, setting.lesson)
        stream = [(lesson.id, text) for lesson, texts in earlier for text in texts]
        stream += [(setting.lesson.id, text) for text in setting.lesson.balanced()]
        self._texts = reservoir(stream, self.config.buffer, setting.rng("fpf"))
        self._changes = torch.full((self._rows(), len(self._units)), torch.nan)
        self._last = {name: p.detach().clone() for name, p in parameters.items()}
        self._selected: frozenset[str] = frozenset()
        self._inside: Cycle | None = None

    def _rows(self) -> int:
        return int(self.config.looks) * self.phases()

    def _phase(self, step: int) -> Cycle | None:
        """The cycle in whose phase a step is."""
        return next((c for c in self._cycles if c.phase <= step < c.end), None)

    def begin(self, step: int) -> None:
        """Enter a phase with what has drifted so far, or leave it; its state is its own."""
        before, now = self._phase(step - 1), self._phase(step)
        if now != self._inside or before != now:
            # Looks are taken outside of phases only, so the phase that ends selects the same.
            self._inside, self._selected = now, self.selection()
        if before != now:
            for name in self._selected:
                self.optimization.forget(name)

    def moves(self, name: str, step: int) -> bool:
        """In a phase: what has drifted. Else: everything."""
        return self._inside is None or name in self._selected

    def batch(self, step: int) -> Sequence[Example]:
        """In a phase: texts of the buffer, walking through shuffles of it."""
        if self._phase(step) is None:
            return ()
        past = sum(max(0, min(step, c.end) - c.phase) for c in self._cycles)
        drawn = walk(self._texts, self.setting.batch_size, past, self.setting, "fpf")
        return [self.setting.encode(text, lesson) for lesson, text in drawn]

    def rate(self, rate: float, step: int) -> float:
        """In a phase: constant."""
        if self._inside is None:
            return rate
        return float(self.config.pace * self.optimization.config.learning_rate)

    def end(self, step: int) -> None:
        """Look at the weights, or take them anew where a phase has moved them."""
        for number, cycle in enumerate(self._cycles):
            if cycle.start <= step < cycle.phase:
                window = -(-(cycle.phase - cycle.start) // self.config.looks)
                done = step + 1 - cycle.start
                if done % window == 0:
                    self._look(number * self.config.looks + done // window - 1)
            elif step + 1 == cycle.end:
                self._remember()

    def _look(self, row: int) -> None:
        changes = [self._change(names) for names in self._units.values()]
        self._changes[row] = torch.tensor(changes)
        self._remember()

    def _change(self, names: Sequence[str]) -> float:
        """D_m since the last look: the mean absolute change of a module's numbers."""
        total = sum(
            float((self._parameters[n].detach().float() - self._last[n].float()).abs().sum())
            for n in names
        )
        return total / numbers(names, self._parameters)

    def _remember(self) -> None:
        for name, parameter in self._parameters.items():
            self._last[name].copy_(parameter.detach())

    def drift(self) -> dict[str, float]:
        """How abruptly each module changed at the lesson's start, s_m; 0 before the first look."""
        first, later = self._changes[0], self._changes[1:]
        within = later[~later[:, :1].isnan().squeeze(1)]
        ratio = first / (within.median(0).values + TINY) if len(within) else first
        return dict(zip(self._units, ratio.nan_to_num(0.0).tolist(), strict=True))

    def selection(self) -> frozenset[str]:
        """The parameters of the modules that drift most, within the budget."""
        scores = self.drift()
        left = self.config.budget * numbers(self._parameters, self._parameters)
        chosen: list[str] = []
        for unit in sorted(scores, key=lambda unit: -scores[unit]):
            size = numbers(self._units[unit], self._parameters)
            if size <= left:
                left -= size
                chosen += self._units[unit]
        return frozenset(chosen)

    def state_bytes(self, parameters: Mapping[str, nn.Parameter]) -> int:
        """The weights at the last look, and the changes of every module at every look."""
        units = len({unit_of(name) for name in parameters})
        return sum(p.nbytes for p in parameters.values()) + 4 * units * self._rows()

    def state_dict(self) -> dict[str, Tensor]:
        """The weights at the last look, and all changes that were seen."""
        return {"changes": self._changes, **{f"last.{n}": t for n, t in self._last.items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self._changes = state["changes"].clone()
        self._last = {name: state[f"last.{name}"].clone() for name in self._last}
