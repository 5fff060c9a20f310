"""Muon on the matrices of the blocks, AdamW on the embedding and the norms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz iteration: g [n, r, c], r <= c -> about the nearest orthogonal matrices.

    In the type of g; the quintic coefficients favour speed: singular values end in 0.7 to 1.2.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (g.float().norm(dim=(1, 2), keepdim=True) + 1e-7).to(g.dtype)
    for _ in range(steps):
        s = torch.bmm(x, x.transpose(1, 2))
        x = torch.baddbmm(x, torch.baddbmm(s, s, s, beta=b, alpha=c), x, beta=a)
    return x


class Muon:
    """Momentum, then orthogonalised steps, over the float32 master weights.

    `parts` says how many matrices lie above one another in a weight (q, k and v, say); each is
    orthogonalised by itself. Matrices of one shape go through the iteration together.
    """

    def __init__(
        self,
        params: dict[str, Tensor],
        momentum: float,
        decay: float,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.params, self.momentum, self.decay, self.dtype = params, momentum, decay, dtype
        self.buffers = {n: torch.zeros_like(p) for n, p in params.items()}

    @staticmethod
    def parts(name: str) -> int:
        return {"qkv": 3, "gate_up": 2}.get(name.rsplit(".", 1)[-1], 1)

    @torch.no_grad()
    def step(self, grads: dict[str, Tensor], lr: float) -> None:
        groups: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for name, p in self.params.items():
            g, buf = grads[name].float(), self.buffers[name]
            buf.lerp_(g, 1 - self.momentum)
            g = g.lerp_(buf, self.momentum)  # Nesterov
            n = self.parts(name)
            for gi, pi in zip(g.chunk(n), p.chunk(n), strict=True):
                if gi.shape[0] > gi.shape[1]:
                    gi, pi = gi.T, pi.T
                groups.setdefault((gi.shape[0], gi.shape[1]), []).append((gi, pi))
        for (rows, cols), pairs in groups.items():
            updates = orthogonalise(torch.stack([g.to(self.dtype) for g, _ in pairs]))
            for (_, p), u in zip(pairs, updates, strict=True):
                tall = p.stride(0) < p.stride(1)  # was turned: more rows than columns
                p.mul_(1 - lr * self.decay)
                p.add_(u, alpha=-lr * ((cols / rows) ** 0.5 if tall else 1.0))


class Optimiser:
    """Both optimisers over master weights and the working copy that has the gradients."""

    def __init__(
        self,
        master: dict[str, Tensor],
        work: dict[str, Tensor],
        momentum: float = 0.95,
        decay: float = 0.01,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.master, self.work = master, work
        self.matrices = [n for n, p in master.items() if p.dim() == 2 and n != "embed"]
        self.others = [n for n in master if n not in self.matrices]
        self.muon = Muon({n: master[n] for n in self.matrices}, momentum, decay, dtype)
        for n in self.others:  # these are their own working copy
            master[n] = work[n]
        # A token that is seldom or never a target has tiny gradients that all point one way: with
        # a short memory and a tiny eps Adam makes full steps of them, and all such tokens alike.
        self.adam = torch.optim.AdamW(
            [work[n] for n in self.others],
            lr=0.0,
            betas=(0.9, 0.999),
            eps=3e-5,
            weight_decay=0.0,
            fused=True,
        )

    @torch.no_grad()
    def step(self, lr_muon: float, lr_adam: float) -> None:
        """Use the gradients of the working copy, and clear them."""
        self.muon.step({n: _grad(self.work[n]) for n in self.matrices}, lr_muon)
        for n in self.matrices:
            self.work[n].copy_(self.master[n])
        self.adam.param_groups[0]["lr"] = lr_adam
        self.adam.step()
        if "embed" in self.work:  # tied: a shared vector changes no probability, and hides words
            self.work["embed"].sub_(self.work["embed"].mean(0))
        for p in self.work.values():
            p.grad = None

    def state(self) -> dict[str, Any]:
        return {"muon": self.muon.buffers, "adam": self.adam.state_dict()}

    @torch.no_grad()
    def load(self, state: dict[str, Any], master: dict[str, Tensor]) -> None:
        """Weights and optimiser state of a checkpoint."""
        for n, p in master.items():
            self.master[n].copy_(p)
            self.work[n].copy_(p)
        for n, b in state["muon"].items():
            self.muon.buffers[n].copy_(b)
        ours = {key: self.adam.param_groups[0][key] for key in ("betas", "eps")}
        self.adam.load_state_dict(state["adam"])
        self.adam.param_groups[0].update(ours)  # not those of an older run


def _grad(p: Tensor) -> Tensor:
    if p.grad is None:
        raise ValueError("a weight got no gradient")
    return p.grad
