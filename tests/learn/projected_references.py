"""Plain fp64 loops of the projected family's equations, written without its code."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Due = Callable[[int], bool]
RATE = 0.01


def wide(gradient: Tensor) -> Tensor:
    return (gradient if gradient.shape[0] < gradient.shape[1] else gradient.T).double()


def leading(gradient: Tensor, rank: int) -> Tensor:
    rows = torch.linalg.svd(gradient)[0][:, :rank].T
    signs = [1.0 if row[row.abs().argmax()] > 0 else -1.0 for row in rows]
    return rows * torch.tensor(signs).double()[:, None]


def transform(size: int) -> Tensor:
    rows = torch.arange(size).double()[:, None]
    whole = math.sqrt(2 / size) * torch.cos(math.pi * rows * (2 * rows.T + 1) / (2 * size))
    whole[0] *= math.sqrt(0.5)
    return whole


class Adam:
    """Moments, and the two forms of a step."""

    def __init__(self, b1: float = 0.9, b2: float = 0.999) -> None:
        self.b1, self.b2, self.t = b1, b2, 0
        self.m: Tensor = torch.zeros(()).double()
        self.v: Tensor = torch.zeros(()).double()

    def take(self, r: Tensor) -> None:
        self.t += 1
        self.m = self.b1 * self.m + (1 - self.b1) * r
        self.v = self.b2 * self.v + (1 - self.b2) * r**2

    def early(self, epsilon: float) -> tuple[Tensor, float]:
        correction = math.sqrt(1 - self.b2**self.t) / (1 - self.b1**self.t)
        return self.m / (self.v.sqrt() + epsilon), correction

    def late(self, epsilon: float) -> Tensor:
        root = (self.v / (1 - self.b2**self.t)).sqrt()
        return self.m / (1 - self.b1**self.t) / (root + epsilon)


def galore(gradients: Sequence[Tensor], rank: int, due: Due, scale: float) -> list[Tensor]:
    adam, weight, found = Adam(), torch.zeros(wide(gradients[0]).shape).double(), []
    for t, gradient in enumerate(map(wide, gradients)):
        if due(t):
            p = leading(gradient, rank)
        adam.take(p @ gradient)
        n, correction = adam.early(1e-6)
        weight = weight - RATE * correction * scale * p.T @ n
        found.append(weight)
    return found


def fira(
    gradients: Sequence[Tensor], rank: int, due: Due, scale: float, whole: bool, reset: bool
) -> list[Tensor]:
    adam, weight, found = Adam(), torch.zeros(wide(gradients[0]).shape).double(), []
    last = None
    for t, gradient in enumerate(map(wide, gradients)):
        if due(t):
            p = leading(gradient, rank)
            adam = Adam() if reset else adam
        r = p @ gradient
        adam.take(r)
        n, correction = adam.early(1e-6)
        phi = n.norm() / r.norm() if whole else n.norm(dim=0) / r.norm(dim=0)
        s = phi * (gradient - p.T @ r)
        if last is not None and s.norm() > 1.01 * last:
            s = s * 1.01 * last / s.norm()
        last = s.norm()
        weight = weight - RATE * correction * scale * (p.T @ n + s)
        found.append(weight)
    return found


def frugal(
    gradients: Sequence[Tensor], mask: Callable[[int], Tensor], due: Due, free: float
) -> list[Tensor]:
    weight, found = torch.zeros(gradients[0].shape).double(), []
    for t, gradient in enumerate(g.double() for g in gradients):
        if due(t):
            adam = Adam()
        adam.take(gradient)
        stateful = mask(t)
        step = torch.where(stateful, adam.late(1e-8), free * gradient.sign())
        weight = weight - RATE * (step + 0.1 * weight)
        found.append(weight)
    return found


def dct(gradients: Sequence[Tensor], rank: int, due: Due, rotate: bool) -> list[Tensor]:
    adam, weight, found = Adam(), torch.zeros(wide(gradients[0]).shape).double(), []
    q, error, chosen = transform(len(weight)), torch.zeros_like(weight), None
    for t, gradient in enumerate(map(wide, gradients)):
        gradient = gradient + error
        if due(t):
            before = chosen
            chosen = sorted((q @ gradient).abs().sum(1).topk(rank).indices.tolist())
            if rotate and before is not None:
                for key in ("m", "v"):
                    old = getattr(adam, key)
                    rows = [
                        old[before.index(i)] if i in before else torch.zeros_like(old[0])
                        for i in chosen
                    ]
                    setattr(adam, key, torch.stack(rows))
        r = q[chosen] @ gradient
        error = gradient - q[chosen].T @ r
        adam.take(r)
        weight = weight - RATE * q[chosen].T @ adam.late(1e-8)
        found.append(weight)
    return found


def ldadamw(gradients: Sequence[Tensor], rank: int, feed_back: bool) -> list[Tensor]:
    b1, b2, rho = 0.908, 0.99, 0.908
    adam, weight, found = Adam(b1, b2), torch.zeros(wide(gradients[0]).shape).double(), []
    error = torch.zeros_like(weight)
    for t, gradient in enumerate(map(wide, gradients)):
        gradient = gradient + error if feed_back else gradient
        if t == 0:
            p = leading(gradient, rank)
            r = p @ gradient
            error = gradient - p.T @ r
        else:
            old, p0 = adam.m, p
            blend = rho * p0.T @ old / (1 - b1**t) + (1 - rho) * gradient
            basis, triangle = torch.linalg.qr(blend @ (blend.T @ p0.T))
            p = (basis * triangle.diagonal().sign()).T
            r, c = p @ gradient, p @ p0.T
            error = gradient - p.T @ r + b1 / (1 - b1) * (p0.T @ old - p.T @ (c @ old))
            mean = old / (1 - b1**t)
            spread = (c * c) @ (adam.v / (1 - b2**t) - mean**2)
            adam.v = ((1 - b2**t) * (spread + (c @ mean) ** 2)).abs()
            adam.m = c @ old
        adam.take(r)
        weight = weight - RATE * p.T @ adam.late(1e-8)
        found.append(weight)
    return found


def orthogonal(matrix: Tensor) -> Tensor:
    x = matrix / matrix.norm()
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


def muon(gradients: Sequence[Tensor], factor: float) -> list[Tensor]:
    weight, found = torch.zeros(wide(gradients[0]).shape).double(), []
    m = torch.zeros_like(weight)
    for gradient in map(wide, gradients):
        m = 0.95 * m + 0.05 * gradient
        weight = weight - RATE * factor * orthogonal(0.95 * m + 0.05 * gradient)
        found.append(weight)
    return found


def trion(gradients: Sequence[Tensor], rank: int, factor: float) -> list[Tensor]:
    weight, found = torch.zeros(wide(gradients[0]).shape).double(), []
    m, q = torch.zeros_like(weight), transform(len(weight))
    for gradient in map(wide, gradients):
        b = m + gradient
        p = q[sorted((q @ b).abs().sum(1).topk(rank).indices.tolist())]
        m = b - 0.05 * p.T @ (p @ b)
        weight = weight - RATE * factor * p.T @ orthogonal(p @ b)
        found.append(weight)
    return found


def lion(gradients: Sequence[Tensor]) -> list[Tensor]:
    weight, found = torch.zeros(gradients[0].shape).double(), []
    m = torch.zeros_like(weight)
    for gradient in (g.double() for g in gradients):
        weight = weight - RATE * ((0.9 * m + 0.1 * gradient).sign() + 0.1 * weight)
        m = 0.99 * m + 0.01 * gradient
        found.append(weight)
    return found
