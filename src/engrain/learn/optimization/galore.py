"""GaLore: Adam in the space of each gradient's leading singular vectors.

Source: Zhao et al., arXiv 2403.03507, algorithm 2. For a matrix W with gradient G, m its smaller
and n its larger side, and B the ``rank`` leading singular vectors of G on the smaller side,
chosen anew every ``refresh`` steps:

    R = B G;    M, V: Adam's moments of R alone;    N = M / (sqrt(V) + epsilon)
    W <- W - rate sqrt(1 - beta2^t) / (1 - beta1^t) scale B^T N - rate weight_decay W.

Moments are kept as they are when B changes, as the authors do; ``on_refresh`` offers the remedies
that others found: reset (FRUGAL), rotate (DCT-AdamW), transport (LDAdam). What differs from the
authors' code: the singular vectors come from the eigenvectors of G G^T, which is seven times as
fast as their decomposition (``projector`` svd), with signs that a rule fixes; refreshes of the
matrices are spread over the steps; decay comes first.

Memory: 4 (rank m + 2 rank n) + 4 bytes a matrix (with the projectors dct: 4 rank instead of 4 rank
m), against AdamW's 8 m n. Time: two products of 2 m n rank operations a step, and the refresh. Use
it in long runs whose gradients stay near one space, and where earlier lessons should stay: with
short lessons of facts it forgot less here than AdamW and moved general predictions less. The
gradient outside of the space is lost for ``refresh`` steps, and a batch with fewer tokens than
``rank`` fills the space with arbitrary vectors: where a lesson should be learned in as few steps as
can be, ``fira``, ``frugal`` and ``apollo`` waste less. With the full rank it is not AdamW, which is
no rule that rotates along.

In the source (pre-training), perplexity on C4 at 60M, 130M, 350M and 1B weights: 34.88, 25.36,
18.95, 15.64; Adam of full rank 34.06, 25.08, 18.80, 15.56. With both tuned, at 1B, 15.57 against
13.97 (arXiv 2505.22922).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from engrain.learn.projected import Projected, RefreshedConfig
from engrain.learn.registry import register
from engrain.learn.technique import option


@dataclass(frozen=True)
class GaloreConfig(RefreshedConfig):
    """Hyper-parameters of GaLore."""

    epsilon: float = option(1e-6, "added to the root of the second moment", low=0.0)


@register("galore")
class Galore(Projected):
    """Low-rank steps from a space that follows the gradient."""

    Config = GaloreConfig

    def epsilon(self, count: int) -> float:
        """The authors add it before the second moment's bias is corrected."""
        return float(self.config.epsilon / math.sqrt(1 - self.config.beta2**count))
