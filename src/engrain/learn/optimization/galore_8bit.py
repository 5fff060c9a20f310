"""GaLore with its moments in 8 bits: a quarter of their memory.

Source: Zhao et al., arXiv 2403.03507, section 4.3, on block-wise 8-bit moments (Dettmers et al.,
arXiv 2110.02861). The equations are those of ``galore``; between steps the moments of the projected
gradient are one byte a number and one fp32 peak for each 256 (:mod:`engrain.learn.blockwise`, whose
codes differ from the authors'). A matrix whose moments have less than 4,096 numbers keeps them in
fp32, and so does what is no matrix.

Memory: 4 rank m + 2 rank n + 8 ceil(rank n / 256) + 4 bytes a matrix of smaller side m and larger
side n. Time: GaLore's, and some 40 passes over rank n numbers. Worth it where rank n is a large
part of the state, that is for ranks in the hundreds; else the basis is what weighs, and
``projector`` dct saves more.

In the source's abstract the optimizer's memory falls by 82.5% and that of training by 63.3% against
bf16.
"""

from __future__ import annotations

from engrain.learn.optimization.galore import Galore, GaloreConfig
from engrain.learn.registry import register


@register("galore-8bit")
class Galore8bit(Galore):
    """Low-rank steps from moments of one byte."""

    Config = GaloreConfig
    eight_bit = True
