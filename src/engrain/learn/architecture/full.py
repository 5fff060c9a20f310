"""Full weights: the update is a difference of every trained matrix.

Source: ordinary fine-tuning; the oldest choice and the upper bound of capacity. The adapter is the
difference between the weights after and before the lesson, so that it folds and leaves like any
other adapter:

    delta = theta_after - theta_before,       served = base + sum of active deltas (fp32).

A weight that did not move has no difference, and none is stored: where rules (``hft``, ``badam``)
let only some move, the adapter holds those.

Memory: as many fp32 numbers as the trained weights, plus the optimizer's. Forgets most when nothing
protects earlier lessons (arXiv 2405.09673 compares it with LoRA), so use it for consolidation
or as a baseline. Embeddings are left out by default: rows of rare tokens would move on noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from engrain.learn.registry import register
from engrain.learn.technique import Architecture, Setting, meta_parameter, option
from engrain.model.adapter import Adapter


@dataclass(frozen=True)
class FullConfig:
    """Hyper-parameters of full-weight training."""

    embeddings: bool = option(False, "train input and output embeddings, too")
    norms: bool = option(True, "train the scales of normalisations, too")


@register("full")
class Full(Architecture):
    """Every weight as the place where a lesson lives."""

    Config = FullConfig
    goes_on: ClassVar[bool] = True

    def attach(self, setting: Setting) -> None:
        """Remember the weights before the lesson and let the chosen ones take gradients."""
        self._model = setting.loaded.model
        self._trained = self._chosen(setting)
        # Weights that no lesson has changed are kept aside already.
        base = setting.loaded.stored()
        changed = set(setting.loaded.changed_since(base))
        self._before = {
            name: p.detach().clone() if name in changed else base[name]
            for name, p in self._trained.items()
        }
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
        for parameter in self._trained.values():
            parameter.requires_grad_(True)

    def _chosen(self, setting: Setting) -> dict[str, nn.Parameter]:
        model = setting.loaded.model
        embeddings = {
            id(module.weight)
            for module in (model.get_input_embeddings(), model.get_output_embeddings())
            if module is not None
        }
        return {
            name: parameter
            for name, parameter in model.named_parameters()
            if (self.config.embeddings or id(parameter) not in embeddings)
            and (self.config.norms or parameter.ndim > 1)
        }

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained weights under their names in the model."""
        return self._trained

    @torch.no_grad()
    def go_on(self, adapter: Adapter) -> None:
        """Add the differences to the weights before the lesson."""
        for name, change in adapter.tensors.items():
            before = self._before[name].float()
            self._trained[name].copy_(before + change.to(before.device))

    def adapter(self) -> Adapter:
        """The difference of every weight that moved, in fp32."""
        changes = {}
        for name, parameter in self._trained.items():
            change = parameter.detach().float() - self._before[name].float()
            if bool(change.any()):
                changes[name] = change
        return Adapter(self.name, changes)

    def detach(self) -> None:
        """Write the weights before the lesson back."""
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(self._before[name])
                parameter.requires_grad_(False)
                parameter.grad = None

    @classmethod
    def fold(cls, adapter: Adapter, weights: dict[str, Tensor]) -> None:
        """W += delta, in fp32."""
        for name, delta in sorted(adapter.tensors.items()):
            weights[name] += delta.float()

    def storage_bytes(self, setting: Setting) -> int:
        """4 bytes for each number of each weight that moves: of all, unless rules hold some."""
        return sum(4 * parameter.numel() for parameter in self._chosen(setting).values())

    def would_train(self, setting: Setting) -> dict[str, nn.Parameter]:
        """The chosen weights."""
        return {name: meta_parameter(*p.shape) for name, p in self._chosen(setting).items()}
