"""APOLLO-Mini: the raw gradient, rescaled by one factor that a single projection of it yields.

Source: Zhu et al., arXiv 2412.05270, section 4.3. The equations are those of ``apollo`` with rank 1
and one factor for each tensor:

    R = p G, (1, n);    N = M / (sqrt(V) + epsilon) from Adam's moments of R
    S = G |N| / |R|, held to |S_t| <= limiter |S_(t-1)|;    W <- W - rate correction sqrt(scale) S.

A single row's factor for one channel would be noise, so the whole tensor shares one; ``scale`` is
the authors' 128, which makes up for what rank 1 shrinks.

Memory: 8 n + 8 bytes a matrix of larger side n (moments, last norm, and a step count for the reason
that ``apollo`` gives), less than a thousandth of AdamW's. Time: three passes over G. It is SGD with
a rate of its own for each matrix, so use it where full weights must be trained and no state fits;
else ``apollo``.

In the source (pre-training), perplexity on C4 at 60M, 130M, 350M and 1B weights: 31.93, 23.53
(23.84 in another of its tables), 17.18, 14.17; Adam of full rank 34.06, 25.08, 18.80, 15.56, not
tuned. Fine-tuning of 1B weights on eight tasks of common sense: 68.23, AdamW 68.07.
"""

from __future__ import annotations

from dataclasses import dataclass

from engrain.learn.optimization.apollo import Apollo, ApolloConfig
from engrain.learn.registry import register
from engrain.learn.technique import option


@dataclass(frozen=True)
class ApolloMiniConfig(ApolloConfig):
    """Hyper-parameters of APOLLO-Mini."""

    rank: int = option(
        1, "rows of the projection, at most a matrix's smaller side", low=1, high=4096
    )
    granularity: str = option(
        "tensor", "one factor for each channel or each tensor", choices=("channel", "tensor")
    )
    scale: float = option(128.0, "square of the step's factor; 0 takes m / rank", low=0.0)


@register("apollo-mini")
class ApolloMini(Apollo):
    """Gradient scaling with one factor for each matrix."""

    Config = ApolloMiniConfig
