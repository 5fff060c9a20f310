"""Take the direction that all embeddings share out of a checkpoint, once.

    python -m training.pocket.recentre RUN

Adam with a short memory (beta2 0.95) moves a token that is seldom a target by full steps against
the mean hidden state, for hundreds of steps, until its embedding is almost nothing but that shared
direction: 97% for " lawyer" and " plumber" after 25M tokens. A reader can't tell such words apart.
The shared part changes no probability where embeddings are tied, since it adds one number to all
logits. What is a token's own is then brought to a norm of at least 1, about that of a frequent
word. From here on `Optimiser` keeps the mean at zero and remembers for longer.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from training.pocket.store import save_checkpoint

LEAST = 1.0
"""Norm, at least, of what is a token's own: neither shared by all nor by all rare ones."""


def recentre(state: dict[str, Any]) -> float:
    """Mend the embedding of a checkpoint, in place; returns the norm of the shared vector.

    The moments of the embedding start anew: the first at zero, the second at its mean over all
    tokens, since the old one had forgotten when rare tokens were last wanted.
    """
    embed = state["master"]["embed"]
    shared = embed.mean(0)
    embed -= shared
    frequency = torch.linalg.svd(embed, full_matrices=False)[2][0]  # the axis of rare and frequent
    along = torch.outer(embed @ frequency, frequency)
    own = embed - along
    embed.copy_(along + own * (LEAST / own.norm(dim=1, keepdim=True)).clamp(min=1.0))
    embed -= embed.mean(0)
    for moments in state["optimiser"]["adam"]["state"].values():
        if moments["exp_avg"].shape == embed.shape:
            moments["exp_avg"].zero_()
            moments["exp_avg_sq"].copy_(moments["exp_avg_sq"].mean(0).expand_as(embed))
    return float(shared.norm())


def main() -> None:
    """Rewrite `RUN/checkpoint.pt`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    path = parser.parse_args().run / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    print(f"took out a shared vector of norm {recentre(state):.2f}")
    save_checkpoint(path, state)


if __name__ == "__main__":
    main()
