"""LoRA: a low-rank change of every linear map, PEFT's own.

Source: Hu et al., arXiv 2106.09685, equation 3. For each targeted matrix W of shape (out, in)

    h = W x + (alpha / rank) B A x,      A: (rank, in), B: (out, rank), B = 0 at the start,

so that the function is unchanged until the first step. One adapter a lesson; the served state is
the base plus the sum of the active adapters, so that a lesson leaves by dropping its term.

Memory: rank * (in + out) numbers a matrix, in fp32. Time: the base's forward and input gradients,
no weight gradients for the base; below the lowest changed layer no gradients at all. Use it when
lessons must be removable, which is nearly always; not when one lesson is so large that its change
is not low-rank.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from engrain.errors import UnsupportedModelError
from engrain.learn.registry import register
from engrain.learn.technique import Architecture, Setting, meta_parameter, option
from engrain.model import kernels
from engrain.model.adapter import Adapter

if TYPE_CHECKING:
    from peft import PeftModel

PREFIX = "base_model.model."
FOLDED = 1 << 18
"""Numbers of a product that are computed at once when it is folded: they stay in the caches."""
_KEY = re.compile(r"^base_model\.model\.(?P<path>.+)\.lora_A\.weight$")


@dataclass(frozen=True)
class LoraConfig:
    """Hyper-parameters of LoRA."""

    rank: int = option(16, "rank of the change of each matrix", low=1, high=1024)
    alpha: float = option(32.0, "the change is scaled by alpha / rank", low=0.0)
    dropout: float = option(0.0, "dropout on the adapter's input while training", low=0, high=0.9)
    targets: str = option("all", "which linear maps", choices=("all", "mlp", "attention"))
    layers: float = option(
        1.0, "share of the layers that are changed, from the highest down", low=0.01, high=1.0
    )


@register("lora")
class Lora(Architecture):
    """PEFT's LoRA as the place where a lesson lives."""

    Config: ClassVar[type[Any]] = LoraConfig
    goes_on: ClassVar[bool] = True

    def attach(self, setting: Setting) -> None:
        """Wrap the targeted linear maps; A is drawn from the setting's seed, B is zero."""
        import peft

        targets = self._targets(setting)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(setting.rng("lora").getrandbits(62))
            self._wrapped: PeftModel = peft.get_peft_model(
                setting.loaded.model,
                peft.LoraConfig(
                    r=self.config.rank,
                    lora_alpha=self.config.alpha,
                    lora_dropout=self.config.dropout,
                    target_modules=targets,
                    bias="none",
                    task_type="CAUSAL_LM",
                    base_model_name_or_path=setting.loaded.source,
                ),
            )
        # By name now: what takes gradients in a step is for the rules of a recipe to say.
        self._trained = {n: p for n, p in self._wrapped.named_parameters() if p.requires_grad}
        self._wrapped.train(self.config.dropout > 0)
        if not self.config.dropout:
            for module in self._wrapped.modules():
                # Some architectures keep their matrices transposed, in modules of another class.
                if isinstance(module, peft.tuners.lora.Linear) and _is_plain(module):
                    module.forward = partial(_forward, module)  # type: ignore[method-assign]

    def _targets(self, setting: Setting) -> list[str]:
        return targeted(setting, self.config.targets, self.config.layers)

    def parameters(self) -> dict[str, nn.Parameter]:
        """A and B of every targeted map, under PEFT's names."""
        return self._trained

    @torch.no_grad()
    def go_on(self, adapter: Adapter) -> None:
        """Copy the tensors of PEFT's file into A and B."""
        for name, parameter in self._trained.items():
            parameter.copy_(adapter.tensors[name.replace(".default.", ".")])

    def adapter(self) -> Adapter:
        """The tensors and settings of PEFT's two files."""
        import peft

        # No embeddings are wrapped; looking for resized ones would ask the hub for the base model.
        tensors = peft.get_peft_model_state_dict(self._wrapped, save_embedding_layers=False)
        copies = {name: tensor.detach().float().clone() for name, tensor in tensors.items()}
        return Adapter(self.name, copies, settings_of(self._wrapped.peft_config["default"]))

    def detach(self) -> None:
        """Put the original modules back; the base weights were never written."""
        self._wrapped.unload()
        for parameter in self._wrapped.parameters():
            parameter.requires_grad_(False)
        # PEFT leaves its configuration on the model and would warn at the next lesson.
        if hasattr(self._wrapped.base_model.model, "peft_config"):
            del self._wrapped.base_model.model.peft_config
        self._wrapped.eval()

    @classmethod
    def fold(cls, adapter: Adapter, weights: dict[str, Tensor]) -> None:
        """W += (alpha / rank) B A, in fp32, of the same bits on every processor."""
        scale = float(adapter.settings["lora_alpha"]) / int(adapter.settings["r"])
        # PEFT notes where a model keeps its matrices transposed, as GPT-2 does.
        transposed = bool(adapter.settings.get("fan_in_fan_out"))
        for key, a in sorted(adapter.tensors.items()):
            match = _KEY.match(key)
            if match:
                b = adapter.tensors[f"{PREFIX}{match['path']}.lora_B.weight"]
                change = scale * product(b.float(), a.float())
                weights[f"{match['path']}.weight"] += change.t() if transposed else change

    def storage_bytes(self, setting: Setting) -> int:
        """4 * rank * (in + out) summed over the targeted maps."""
        modules = dict(setting.loaded.model.named_modules())
        shapes = [modules[path].weight.shape for path in self._targets(setting)]
        return sum(4 * self.config.rank * (rows + columns) for rows, columns in shapes)

    def would_train(self, setting: Setting) -> dict[str, nn.Parameter]:
        """A and B of every targeted map."""
        modules = dict(setting.loaded.model.named_modules())
        found = {}
        for path in self._targets(setting):
            rows, columns = modules[path].weight.shape
            found[f"{PREFIX}{path}.lora_A.weight"] = meta_parameter(self.config.rank, columns)
            found[f"{PREFIX}{path}.lora_B.weight"] = meta_parameter(rows, self.config.rank)
        return found


def product(b: Tensor, a: Tensor) -> Tensor:
    """B A of ``(out, rank)`` and ``(rank, in)``: products are added in order, each sum rounded.

    A library's product adds in an order of its own for each processor. This one has the same bits
    on all, so that a home can move to another machine and its digests still hold.
    """
    whole = torch.empty(b.shape[0], a.shape[1], dtype=b.dtype, device=b.device)
    if b.dtype == torch.float32 and b.is_cpu and kernels.library() is not None:
        b, a = b.contiguous(), a.contiguous()
        kernels.run("engrain_low_rank", b.shape[0], b.shape[1], a.shape[1], b, a, whole)
        return whole
    rows = max(1, FOLDED // a.shape[1])
    term = torch.empty(min(rows, b.shape[0]), a.shape[1], dtype=b.dtype, device=b.device)
    for first in range(0, b.shape[0], rows):
        part, left = whole[first : first + rows], b[first : first + rows]
        torch.mul(left[:, :1], a[:1], out=part)
        for rank in range(1, a.shape[0]):
            # Apart, since a fused multiply-add rounds once, and not every processor fuses.
            one = term[: part.shape[0]]
            torch.mul(left[:, rank : rank + 1], a[rank : rank + 1], out=one)
            part += one
    return whole


def _is_plain(module: Any) -> bool:
    return type(module.base_layer) is nn.Linear and not module.fan_in_fan_out


def _forward(module: Any, inputs: Tensor) -> Tensor:
    """What PEFT's layer computes, in fewer passes over memory."""
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    return changed(inputs, module.base_layer, a, b, module.scaling["default"])


def changed(inputs: Tensor, layer: nn.Linear, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """What a linear map and its low-rank change give: ``layer(x) + scale x A^T B^T``."""
    out: Tensor = _Changed.apply(inputs, layer.weight, layer.bias, a, b, scale)  # type: ignore[no-untyped-call]
    return out


class _Changed(torch.autograd.Function):
    """``x W^T + bias + scale x A^T B^T``; products are added where they are computed."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: float,
    ) -> Tensor:
        kind = inputs.dtype
        if torch.is_autocast_enabled(inputs.device.type):
            kind = torch.get_autocast_dtype(inputs.device.type)
        with torch.autocast(inputs.device.type, enabled=False):
            rows = inputs.reshape(-1, inputs.shape[-1]).to(kind)
            low, high = a.to(kind), b.to(kind)
            out = linear(rows, weight.to(kind), None if bias is None else bias.to(kind))
            out.addmm_(rows @ low.t(), high.t(), alpha=scale)
        ctx.save_for_backward(rows, weight, a, b)
        ctx.kind, ctx.scale, ctx.shape, ctx.type = kind, scale, inputs.shape, inputs.dtype
        return out.view(*inputs.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, a, b = ctx.saved_tensors
        kind, found = ctx.kind, None
        with torch.autocast(gradient.device.type, enabled=False):
            flat = gradient.reshape(-1, gradient.shape[-1]).to(kind)
            low, high = a.to(kind), b.to(kind)
            narrow = (flat @ high).mul_(ctx.scale)
            d_a = (narrow.t() @ rows).to(a.dtype)
            d_b = (flat.t() @ (rows @ low.t())).mul_(ctx.scale).to(b.dtype)
            if ctx.needs_input_grad[0]:
                found = (flat @ weight.to(kind)).addmm_(narrow, low).view(ctx.shape).to(ctx.type)
        return found, None, None, d_a, d_b, None


def targeted(setting: Setting, targets: str, layers: float) -> list[str]:
    """Paths of the linear maps that are to be changed.

    Raises:
        UnsupportedModelError: there are none.
    """
    paths = list(setting.loaded.profile.lora_targets)
    kinds = {"mlp": (".mlp.", ".feed_forward."), "attention": ("attn.", "attention.")}
    if targets != "all":
        paths = [p for p in paths if any(k in p for k in kinds[targets])]
    paths = _highest(paths, layers)
    if not paths:
        raise UnsupportedModelError(
            f"{setting.loaded.source} has no linear maps that LoRA can extend ({targets}).",
            remedy="Use the architecture 'full' or another choice of targets.",
        )
    return paths


def _highest(paths: list[str], share: float) -> list[str]:
    """The paths in the highest share of the layers; those outside of layers stay."""
    numbers = [next((int(p) for p in path.split(".") if p.isdigit()), None) for path in paths]
    layers = sorted({number for number in numbers if number is not None})
    lowest = layers[-max(1, round(share * len(layers)))] if layers else 0
    return [p for p, n in zip(paths, numbers, strict=True) if n is None or n >= lowest]


def settings_of(config: Any) -> dict[str, Any]:
    """What PEFT writes into its settings file, as JSON-ready values in one order."""
    # PEFT keeps target modules as a set: sort them so that equal adapters have equal bytes.
    found = {key: _plain(value) for key, value in sorted(config.to_dict().items())}
    # Where the base lies on this machine is no part of a lesson, which may travel.
    return {**found, "base_model_name_or_path": None}


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
