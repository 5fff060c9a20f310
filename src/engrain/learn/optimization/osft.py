"""OSFT: the largest singular directions of each matrix stay as they are, all learning avoids them.

Source: Nayak et al., arXiv 2504.07097 (adaptive SVD); the strict form and the projection after the
step are those of mini_trainer, the authors' code. At the start of a lesson each matrix of a layer
is split, W = U S V^T with S falling; its first k singular triplets (U_h, S_h, V_h) are frozen. With
P = U_h U_h^T and Q = V_h V_h^T:

    strict       G <- (I - P) G (I - Q);   after the step  W <- U_h S_h V_h^T + (I - P) W (I - Q)
    paper_block  G <- G - P G Q;           after the step  W <- W - P W Q + U_h S_h V_h^T.

The step's correction is what makes it hold: an optimizer that rescales single numbers, as Adam
does, leaves the subspace in which its gradient lies, and weight decay shrinks what is frozen.
``strict`` keeps the k triplets singular triplets of W exactly: U_h^T W = S_h V_h^T and
W V_h = U_h S_h, so that an input in the span of V_h is answered as before. ``paper_block`` is the
paper's equation, which removes only what joins two frozen directions; it guarantees no more than
U_h^T W V_h = S_h.

How many directions are frozen of a matrix with r = min(out, in):

    equal        k = floor(r share)
    importance   k = floor(r (least + I (share - least))),    I ~ mean over tokens of cos(x, W x),

I scaled to mean 1, on texts that the model knows; the paper's rates are least 0.1 and share 0.8.
The cosine exists where out = in; other matrices have I = 1, a negative mean counts as 0, and
without any text all are 1: of that the paper says nothing. ``equal`` is what the released codes do,
and the default: in the pocket model the cosine of half of the square matrices is negative, and
importance frees or freezes them nearly whole, as chance has it.

With the budget ``lessons`` the share is earlier / ``lessons``, at most ``share``: the first lesson
is free, each later one leaves less (the authors' advice in PEFT's documentation). A stream without
an end needs the budget ``fixed``: capacity runs out.

This differs from the released codes, which train the factors of the low part: here the weight
itself is trained. Under ``strict`` the weights that can be reached are the same, and no weight is
rebuilt in the forward; the optimizer's moments are those of the whole weight.

Memory: 4 (l k + k + s^2) bytes a matrix of long side l and short side s under ``strict``, 4 k (l +
s + 1) under ``paper_block``. Time at the start of a lesson: one eigendecomposition of an s x s
matrix in fp64; a full SVD only where it loses digits. Time of a step: l (s - k) (3 s + 4 k) + l s^2
multiplications a matrix, which exceeds forward and backward of short batches. Use it where what
full weights know should stay, at the price of slower learning; knowledge in small directions is not
protected (the paper's GSM8K fell from 26 to 8). Only for weights that are trained whole; not for
LoRA.

In the source, LLaMA-2-7B on eight tasks in turn (TRACE): 48.4, O-LoRA 41.3, plain fine-tuning 23.0,
a model for each task 57.6. T5-large on 5 and 15 tasks: 75.9 and 71.3, O-LoRA 75.8 and 69.6.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from engrain.data.examples import Example
from engrain.errors import ConfigError
from engrain.learn.compute import autocast
from engrain.learn.divergence import known_texts
from engrain.learn.registry import register
from engrain.learn.technique import Optimization, Rule, Setting, option, warn_of_rank

FLAT = 1e-4
"""Smallest singular value, as a share of the largest, that squares in fp64 tell well enough."""
_IN_LAYER = re.compile(r"\.\d+\.")


@dataclass(frozen=True)
class OsftConfig:
    """Hyper-parameters of OSFT."""

    form: str = option(
        "strict",
        "what may not change: all that touches a frozen direction, or what joins two of them",
        choices=("strict", "paper_block"),
    )
    share: float = option(0.8, "share of the directions that is frozen, on average", low=0, high=1)
    least: float = option(0.1, "share frozen of a matrix of no importance", low=0, high=1)
    ranks: str = option(
        "equal", "how the share is spread over matrices", choices=("equal", "importance")
    )
    rank: int = option(
        0, "directions frozen in every matrix; 0 goes by share, ranks and budget", low=0
    )
    budget: str = option(
        "fixed", "whether the share holds at once or grows to it", choices=("fixed", "lessons")
    )
    lessons: int = option(10, "lessons that a growing budget expects", low=1)
    others: str = option(
        "train",
        "parameters that are no matrix of a layer: trained, not trained, or matrices held, too",
        choices=("train", "freeze", "hold"),
    )
    texts: int = option(32, "texts on which importance is measured", low=1)


@register("osft")
class Osft(Rule):
    """Projection of gradients and weights away from the frozen singular directions."""

    Config = OsftConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._split: dict[str, dict[str, Tensor]] = {}
        self._importance: dict[str, float] = {}
        self._earlier = 0

    def prepare(
        self,
        parameters: Mapping[str, nn.Parameter],
        setting: Setting,
        optimization: Optimization,
    ) -> None:
        """Take the parameters; the matrices are split when the first step begins.

        Raises:
            ConfigError: none of them is a matrix of the model itself.
        """
        super().prepare(parameters, setting, optimization)
        own = setting.loaded.weights()
        self._held = {n: p for n, p in parameters.items() if self._holds(n, p) and n in own}
        if not self._held:
            raise ConfigError(
                "osft finds no matrix to hold: the recipe trains none of the model's own weights.",
                remedy="Choose the architecture full.",
            )
        warn_of_rank(self.name, self.config.rank, (item.shape for item in self._held.values()))
        self._split, self._importance, self._earlier = {}, {}, len(setting.earlier)

    def _holds(self, name: str, parameter: Tensor) -> bool:
        inside = self.config.others == "hold" or bool(_IN_LAYER.search(name))
        return inside and parameter.ndim == 2

    def begin(self, step: int) -> None:
        """Split the matrices, once, before anything has moved."""
        if self._split:
            return
        if self.config.ranks == "importance" and not self.config.rank:
            taught, general = known_texts(self.setting, self.config.texts, "osft")
            self._importance = importances(self.setting, self._held, taught + general)
        for name, parameter in self._held.items():
            frozen = self.frozen(name, parameter)
            self._split[name] = split(parameter.detach(), frozen, whole=self._strict)

    @property
    def _strict(self) -> bool:
        return bool(self.config.form == "strict")

    def frozen(self, name: str, parameter: Tensor) -> int:
        """How many directions of a matrix are frozen."""
        if name in self._split:
            return len(self._split[name]["values"])
        small = min(parameter.shape)
        if self.config.rank:
            return int(min(self.config.rank, small))
        most = self.config.share
        if self.config.budget == "lessons":
            most = min(most, self._earlier / self.config.lessons)
        least = min(self.config.least, most) if self.config.ranks == "importance" else most
        share = least + self._importance.get(name, 1.0) * (most - least)
        # The small number makes up for shares such as 0.29 * 100, which is below 29.
        return int(min(small, math.floor(share * small + 1e-9)))

    def moves(self, name: str, step: int) -> bool:
        """Matrices that are frozen whole stand still; other parameters by choice."""
        if name in self._held:
            return self.frozen(name, self._held[name]) < min(self._held[name].shape)
        return bool(self.config.others != "freeze")

    def gradient(self, name: str, weight: Tensor, gradient: Tensor, step: int) -> Tensor:
        """The gradient without its part along frozen directions."""
        kept = self._split.get(name)
        if kept is None or not len(kept["values"]):
            return gradient
        turned = _turned(gradient)
        if self._strict:
            free = kept["right"][:, len(kept["values"]) :]
            return _turned(_outside(kept, turned) @ free.t(), gradient)
        core = kept["left"].t() @ (turned @ kept["right"])
        return _turned(turned - (kept["left"] @ core) @ kept["right"].t(), gradient)

    def moved(self, name: str, before: Tensor, weight: Tensor, step: int) -> None:
        """Put the frozen triplets back into a weight."""
        kept = self._split.get(name)
        if kept is None or not len(kept["values"]):
            return
        turned = _turned(weight)
        if self._strict:
            # The whole weight and not its change: what rounding to bf16 did is put right, too.
            columns = torch.cat([kept["left"] * kept["values"], _outside(kept, turned)], dim=1)
            held = columns @ kept["right"].t()
        else:
            core = kept["left"].t() @ (turned @ kept["right"]) - kept["values"].diag()
            held = turned - (kept["left"] @ core) @ kept["right"].t()
        weight.copy_(_turned(held, weight))

    def state_bytes(self, parameters: Mapping[str, nn.Parameter]) -> int:
        """4 (l k + k + s^2) a matrix, or 4 k (l + s + 1) under ``paper_block``.

        Before the lesson is known a growing budget counts as it begins, and importances as 1.
        """
        found = 0
        for name, parameter in parameters.items():
            if not self._holds(name, parameter):
                continue
            small, large = sorted(parameter.shape)
            k = self.frozen(name, parameter)
            right = (small if self._strict else k) if k else 0
            found += 4 * (large * k + k + small * right)
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """The split of each matrix."""
        return {f"{n}.{key}": t for n, kept in self._split.items() for key, t in kept.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the splits back: the weights before the lesson can't be seen any more."""
        self._split = {}
        for place, tensor in state.items():
            name, _, key = place.rpartition(".")
            # A copy: what was loaded is one file's memory, and goes where the weights are.
            copied = tensor.to(self._held[name].device, copy=True)
            self._split.setdefault(name, {})[key] = copied


def split(matrix: Tensor, frozen: int, *, whole: bool) -> dict[str, Tensor]:
    """The first singular triplets of a matrix, fp32, its long side on the left.

    Gives ``left`` ``(long, frozen)``, ``values`` ``(frozen,)`` and ``right`` ``(short, frozen)``;
    where ``whole`` the other right directions follow, ``(short, short)``.
    """
    turned = _turned(matrix).to(torch.float64)
    if frozen == 0:
        left, values, right = turned[:, :0], turned[0, :0], turned[:0].t()
    else:
        squares, right = torch.linalg.eigh(turned.t() @ turned)
        values, right = squares.flip(0).clamp_min(0).sqrt()[:frozen], right.flip(1)
        if float(values[-1]) > FLAT * float(values[0]):
            left = turned @ right[:, :frozen] / values
        else:
            left, values, rows = torch.linalg.svd(turned, full_matrices=False)
            left, values, right = left[:, :frozen], values[:frozen], rows.t()
        right = right if whole else right[:, :frozen]
    parts = {"left": left, "values": values, "right": right}
    return {key: part.to(torch.float32).contiguous() for key, part in parts.items()}


@torch.no_grad()
def importances(
    setting: Setting, parameters: Mapping[str, nn.Parameter], examples: Sequence[Example]
) -> dict[str, float]:
    """Importance of each square matrix: mean cosine of input and output, scaled to mean 1."""
    square = {id(p): n for n, p in parameters.items() if p.shape[0] == p.shape[1]}
    sums = dict.fromkeys(square.values(), 0.0)
    handles = []

    def watch(name: str) -> Any:
        def hook(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            bias = getattr(module, "bias", None)
            product = output if bias is None else output - bias
            cosines = cosine_similarity(inputs[0].float(), product.float(), dim=-1)
            sums[name] += float(cosines.sum(dtype=torch.float64))

        return hook

    model: Any = setting.loaded.model
    for module in model.modules():
        name = square.get(id(getattr(module, "weight", None)))
        if name is not None:
            handles.append(module.register_forward_hook(watch(name)))
    try:
        for example in examples:
            ids = torch.tensor([example.ids], device=setting.loaded.device)
            with autocast():
                model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    # A sum is as good as a mean: all matrices see the same tokens.
    positive = {name: max(0.0, total) for name, total in sums.items()}
    mean = sum(positive.values()) / max(1, len(positive))
    return {name: value / mean for name, value in positive.items()} if mean else {}


def _outside(kept: dict[str, Tensor], turned: Tensor) -> Tensor:
    """A matrix ``(long, short)`` in its free right directions, without the frozen left ones."""
    free = turned @ kept["right"][:, len(kept["values"]) :]
    return free - kept["left"] @ (kept["left"].t() @ free)


def _turned(matrix: Tensor, shaped: Tensor | None = None) -> Tensor:
    """A matrix with its long side first; given ``shaped``, turned back to that one's shape."""
    like = matrix if shaped is None else shaped
    return matrix if like.shape[0] >= like.shape[1] else matrix.t()
