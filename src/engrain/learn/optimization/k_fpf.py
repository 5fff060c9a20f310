"""k-FPF: several times in a lesson, what drifted is fine-tuned on a small buffer.

Source: Zhao et al., ICML 2023, arXiv 2304.04158, k-FPF-SGD. As ``fpf`` (see there for the score and
the buffer), with k = ``phases`` phases instead of one:

    every tau = steps / k steps:   (1 - share) tau steps on the lesson alone,
                                   share tau steps on the buffer, only what drifts moves.

Each phase selects anew, from all looks so far. k 0 is the lesson alone; with k half the steps,
``share`` 0.5 and ``budget`` 1 every other step is plain experience replay. The source trains by SGD
between the phases; here any per-parameter optimization does it, and what a phase has moved begins
anew after it. There are no more phases than pairs of steps. k-FPF-KD, the variant that also holds
the buffer's logits, is this with the regularization ``logit_anchor``.

Memory: that of ``fpf``, with k times as many looks. Time: replay at every step adds steps times a
batch, k-FPF share times steps of them, with weight gradients for the selected modules alone. Use it
for long lessons, over whose course much is lost before the end; for short ones use ``fpf``.
"""

from __future__ import annotations

from dataclasses import dataclass

from engrain.learn.optimization.fpf import Fpf, FpfConfig
from engrain.learn.registry import register
from engrain.learn.technique import option


@dataclass(frozen=True)
class KFpfConfig(FpfConfig):
    """Hyper-parameters of fine-tuning what drifts, several times."""

    phases: int = option(4, "how many times; 0 is never", low=0, high=10_000)


@register("k-fpf")
class KFpf(Fpf):
    """Several phases of fine-tuning what drifts."""

    Config = KFpfConfig

    def phases(self) -> int:
        """As many as were asked for."""
        return int(self.config.phases)
