"""Trust region of the predictions: a lesson stays near the model before it, or goes back.

Source: the trust region of TRPO (Schulman et al., arXiv 1502.05477, equation 14 and appendix C: a
bound on the mean divergence, and backtracking where a step breaks it), here around the model
before the lesson; the divergence is the one that predicts forgetting (Shenfeld et al., arXiv
2509.04259). Every ``every`` steps, and after the last one,

    D(W) = mean over known tokens of KL(p_before || p_W)     (engrain.learn.divergence)

is measured on texts that the model knew: half of them what earlier lessons taught, half general.
Where D > ``radius`` the weights move back along their change,

    W <- C + t (W - C),

with the largest multiple t of 2^-tries that bisection finds to hold, and the learning rate falls by
``slower`` for the rest of the lesson. C are the weights before the lesson (``start``: a projection
onto the region along a ray) or those of the last check (``checked``: backtracking as in TRPO).
If no try holds, t = 0. So at the end of a lesson D <= radius on these texts.

A bound does what a penalty (``kl_anchor``) can't: nothing is paid inside it, and it holds whatever
the lesson's loss. The optimizer's moments are left as they are.

Memory: a copy of the trained parameters; 8 texts tokens top_k bytes of predictions, where top_k is
at most the vocabulary; the logits of two texts while it checks; while it goes back one more copy,
in the place of gradients that are gone.
Time: a forward over the texts at each check, ``tries`` more where it goes back. All of it happens
after every parameter has moved, so steps may be taken inside backward. Not for architectures that
rearrange what they train between two steps: a way back over a merge is no way back.

Use it where forgetting must have a bound that is known beforehand. This use of a trust region is
ours: nobody has published figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engrain.errors import ConfigError
from engrain.learn.divergence import Reference, known_texts, whole
from engrain.learn.registry import register
from engrain.learn.technique import Optimization, Rule, Setting, option


@dataclass(frozen=True)
class TrustPredictionsConfig:
    """Hyper-parameters of the trust region of the predictions."""

    radius: float = option(0.1, "largest mean divergence, in nats a token", low=0.0)
    every: int = option(8, "steps from one check to the next", low=1)
    tries: int = option(4, "halvings in the search for the way back", low=1, high=20)
    back_to: str = option(
        "start",
        "along which change: since the lesson's start, or since the last check",
        choices=("start", "checked"),
    )
    slower: float = option(0.8, "factor of the rate after going back", low=0.01, high=1.0)
    texts: int = option(32, "texts whose predictions are held", low=1)
    max_tokens: int = option(128, "longest general text in tokens", low=8)
    top_k: int = option(256, "likeliest tokens that are told apart", low=1)


@register("trust_predictions")
class TrustPredictions(Rule):
    """A bound on the divergence from the model before the lesson."""

    Config = TrustPredictionsConfig

    def __init__(self, config: TrustPredictionsConfig) -> None:
        super().__init__(config)
        self._reference: Reference | None = None
        self._factor = torch.ones((), dtype=torch.float64)

    def prepare(
        self,
        parameters: Mapping[str, nn.Parameter],
        setting: Setting,
        optimization: Optimization,
    ) -> None:
        """Keep the weights and what the model predicts.

        Raises:
            ConfigError: there is no text to predict.
        """
        super().prepare(parameters, setting, optimization)
        taught, general = known_texts(setting, self.config.texts, "trust_predictions")
        examples = taught + [whole(text, self.config.max_tokens) for text in general]
        if not examples:
            raise ConfigError(
                "trust_predictions has no text on which to measure: there are no anchors and no "
                "earlier lessons.",
                remedy="Give the learner anchors (engrain.data.general.anchors()), or use "
                "trust_weights, which needs none.",
            )
        self._parameters = dict(parameters)
        self._point = {name: p.detach().clone() for name, p in parameters.items()}
        self._reference = Reference.of(setting.loaded, examples, self.config.top_k)
        self._factor = torch.ones((), dtype=torch.float64)

    def rate(self, rate: float, step: int) -> float:
        """The schedule's rate, less for each time that the weights went back."""
        return rate * float(self._factor)

    def end(self, step: int) -> None:
        """Check, and go back where the region was left."""
        if (step + 1) % self.config.every and step + 1 != self.setting.steps:
            return
        if not self._holds():
            self._go_back()
            self._factor = self._factor * self.config.slower
        if self.config.back_to == "checked":
            for name, parameter in self._parameters.items():
                self._point[name].copy_(parameter.detach())

    def divergence(self) -> float:
        """Mean divergence from the model before the lesson, in nats a token."""
        assert self._reference is not None
        return self._reference.divergence()

    def _holds(self) -> bool:
        # Not "above": a divergence that is no number is not inside.
        return bool(self.divergence() <= self.config.radius)

    def _go_back(self) -> None:
        there = {name: p.detach().clone() for name, p in self._parameters.items()}
        low, high = 0.0, 1.0
        for _ in range(self.config.tries):
            middle = (low + high) / 2
            self._place(there, middle)
            low, high = (middle, high) if self._holds() else (low, middle)
        self._place(there, low)

    @torch.no_grad()
    def _place(self, there: Mapping[str, Tensor], share: float) -> None:
        """Put the weights a share of the way from the kept point to ``there``."""
        for name, parameter in self._parameters.items():
            start = self._point[name]
            # No share of a change that is not finite is taken: 0 times infinity is no number.
            place = start if share == 0 else start.float().lerp(there[name].float(), share)
            parameter.data.copy_(place)

    def state_bytes(self, parameters: Mapping[str, nn.Parameter]) -> int:
        """A copy of the parameters, the predictions, and one number.

        Before the lesson is known the predictions count as those of texts of full length.
        """
        known: int = 8 * self.config.texts * self.config.max_tokens * self.config.top_k
        if self._reference is not None:
            known = sum(t.nbytes for t in self._reference.state_dict().values())
        return known + sum(parameter.nbytes for parameter in parameters.values()) + 8

    def state_dict(self) -> dict[str, Tensor]:
        """The kept point, the predictions and the factor of the rate."""
        assert self._reference is not None
        known = {f"known|{key}": t for key, t in self._reference.state_dict().items()}
        point = {f"point|{name}": tensor for name, tensor in self._point.items()}
        return {"factor": self._factor, **point, **known}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the state back."""
        assert self._reference is not None
        self._factor = state["factor"].clone()
        for name, parameter in self._parameters.items():
            self._point[name] = state[f"point|{name}"].to(parameter.device, copy=True)
        prefix = "known|"
        self._reference.load_state_dict(
            {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}
        )
