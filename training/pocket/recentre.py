"""Take the direction that all embeddings share out of a checkpoint, once.

    python -m training.pocket.recentre RUN

Adam with a short memory (beta2 0.95) moves a token that is seldom a target by full steps against
the mean hidden state, for hundreds of steps, until its embedding is almost nothing but that shared
direction: 97% for " lawyer" and " plumber" after 25M tokens. A reader can't tell such words apart.
The shared part changes no probability where embeddings are tied, since it adds one number to all
logits. From here on `Optimiser` keeps the mean at zero and remembers for longer.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from training.pocket.store import save_checkpoint


def recentre(state: dict[str, Any]) -> float:
    """Centre the embedding of a checkpoint, in place; returns the norm of what was taken out.

    The moments of the embedding start anew: the first at zero, the second at its mean over all
    tokens, since the old one had forgotten when rare tokens were last wanted.
    """
    embed = state["master"]["embed"]
    shared = embed.mean(0)
    embed -= shared
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
