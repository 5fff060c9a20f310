"""What a model is made of, found by walking its modules, never by arithmetic on its config.

A learner touches exactly the places where architectures differ: key and value projections, experts,
tied tensors, caches. Everything that depends on the architecture asks the profile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

OTHER_TOWERS = frozenset(
    {
        "vision_tower",
        "vision_model",
        "visual",
        "vision",
        "audio_tower",
        "audio_model",
        "audio",
        "image_encoder",
        "embed_vision",
        "embed_audio",
        "multi_modal_projector",
        "mm_projector",
    }
)
"""Path components of what is not the text tower."""

ATTENTION_NAMES = ("self_attn", "attention", "self_attention", "attn")
STATEFUL_NAMES = ("linear_attn", "mixer", "mamba", "ssm", "conv", "short_conv", "temporal_block")
PLAIN_PROJECTIONS = frozenset(
    {
        *("q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "qkv_proj"),
        *("query_key_value", "dense", "c_attn", "c_proj", "q_attn"),
    }
)
OUTPUT_PROJECTIONS = frozenset({"o_proj", "out_proj", "dense", "c_proj"})
ROUTER_NAMES = frozenset({"gate", "router", "shared_expert_gate", "classifier"})


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """One layer of the text tower.

    ``attention`` is ``full``, ``sliding``, ``linear`` (a recurrent or convolutional state) or
    ``other``; ``window`` the sliding window in tokens; ``kv_owner`` the layer whose keys and values
    it reads (its own index nearly always); ``feed_forward`` is ``dense``, ``experts``, ``both`` or
    ``none``.
    """

    index: int
    attention: str
    window: int | None
    kv_owner: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: str


@dataclass(frozen=True, slots=True)
class ArchProfile:
    """What a learner and the engine must know of a model's architecture.

    ``lora_targets`` are full paths of linear modules of the text tower; ``skipped`` are the linear
    modules and expert tensors that were left out, with the reason. ``cache_kind`` is ``kv`` (keys
    and values of all tokens can be kept, so a cache may be cropped), ``shared`` (later layers read
    the keys and values of earlier ones) or ``state`` (recurrent, convolutional, compressed).
    """

    model_type: str
    layers: tuple[LayerProfile, ...]
    layers_path: str
    embedding: str
    lm_head: str
    tied: bool
    vocab_size: int
    hidden_size: int
    max_length: int
    parameters: int
    lora_targets: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    buffers: tuple[str, ...]
    cache_kind: str
    attention_backend: str

    @property
    def cache_croppable(self) -> bool:
        """Whether the end of a cache can be taken back without running the model again."""
        return self.cache_kind == "kv"

    @property
    def kv_heads(self) -> int:
        """Key and value heads of a layer; the most over layers where they differ."""
        return max((layer.kv_heads for layer in self.layers), default=0)

    @property
    def sliding_windows(self) -> tuple[int | None, ...]:
        """The sliding window of each layer in tokens; None for a layer that sees everything."""
        return tuple(layer.window for layer in self.layers)

    @property
    def kv_suppliers(self) -> tuple[int, ...]:
        """Layers whose keys and values other layers read too: a change there reaches far."""
        owners = {layer.kv_owner for layer in self.layers if layer.kv_owner != layer.index}
        return tuple(sorted(owners))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready summary."""
        return {
            "model_type": self.model_type,
            "layers": len(self.layers),
            "hidden_size": self.hidden_size,
            "vocab_size": self.vocab_size,
            "max_length": self.max_length,
            "parameters": self.parameters,
            "tied": self.tied,
            "heads": max((layer.heads for layer in self.layers), default=0),
            "kv_heads": self.kv_heads,
            "sliding_windows": list(self.sliding_windows),
            "feed_forward": sorted({layer.feed_forward for layer in self.layers}),
            "cache_kind": self.cache_kind,
            "attention_backend": self.attention_backend,
            "lora_targets": len(self.lora_targets),
            "skipped": [f"{path}: {reason}" for path, reason in self.skipped],
        }


def profile_model(model: Any) -> ArchProfile:
    """Walk a causal language model and say what it is made of."""
    config = model.config.get_text_config(decoder=True)
    path, modules = _text_layers(model)
    layers = tuple(_layer(i, layer, config) for i, layer in enumerate(modules))
    layers = _with_owners(layers, modules)
    targets: list[str] = []
    skipped: list[tuple[str, str]] = []
    for index, layer in enumerate(modules):
        for name, reason in _linear_paths(layer):
            full = f"{path}.{index}.{name}"
            if reason:
                skipped.append((full, reason))
            else:
                targets.append(full)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    return ArchProfile(
        model_type=str(config.model_type),
        layers=layers,
        layers_path=path,
        embedding=names.get(id(embedding), ""),
        lm_head=names.get(id(head), ""),
        tied=head is not None and head.weight is embedding.weight,
        vocab_size=int(embedding.weight.shape[0]),
        hidden_size=int(getattr(config, "hidden_size", embedding.weight.shape[1])),
        max_length=int(getattr(config, "max_position_embeddings", None) or 2048),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        lora_targets=tuple(targets),
        skipped=tuple(skipped),
        buffers=tuple(name for name, _ in model.named_buffers()),
        cache_kind=_cache_kind(layers),
        attention_backend=str(getattr(config, "_attn_implementation", "") or "eager"),
    )


def _text_layers(model: nn.Module) -> tuple[str, list[nn.Module]]:
    """The longest list of modules outside the towers of other modalities."""
    best: tuple[str, list[nn.Module]] = ("", [])
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or OTHER_TOWERS & set(name.split(".")):
            continue
        # A list nested inside a layer (experts, depth-wise heads) is not the tower.
        if best[0] and name.startswith(f"{best[0]}."):
            continue
        if len(module) > len(best[1]):
            best = (name, list(module))
    return best


def _child(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    for name in names:
        child = getattr(module, name, None)
        if isinstance(child, nn.Module):
            return child
    return None


def _is_linear(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return type(module) is nn.Linear or isinstance(module, Conv1D)


def _layer(index: int, layer: nn.Module, config: Any) -> LayerProfile:
    attention = _child(layer, ATTENTION_NAMES)
    types = getattr(config, "layer_types", None) or []
    kind = str(types[index]) if index < len(types) else ""
    window = _window(attention, config, kind)
    if attention is None or _child(layer, STATEFUL_NAMES) is not None or "linear" in kind:
        sort = "linear"
    elif not _is_plain(attention):
        sort = "other"
    else:
        sort = "sliding" if window else "full"
    heads, kv_heads, head_dim = _heads(attention, config)
    return LayerProfile(
        index=index,
        attention=sort,
        window=window if sort == "sliding" else None,
        kv_owner=index,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        feed_forward=_feed_forward(layer),
    )


def _window(attention: nn.Module | None, config: Any, kind: str) -> int | None:
    own = getattr(attention, "sliding_window", None)
    if isinstance(own, int):
        return own
    if kind == "sliding_attention" or (not kind and getattr(config, "use_sliding_window", True)):
        of_model = getattr(config, "sliding_window", None)
        return of_model if isinstance(of_model, int) else None
    return None


def _is_plain(attention: nn.Module) -> bool:
    """Projections and norms only: no convolution, no compression, no parameter of its own."""
    return all(
        name.rpartition(".")[2] in PLAIN_PROJECTIONS or "norm" in name
        for name, module in attention.named_modules()
        if name and next(module.parameters(recurse=False), None) is not None
    ) and all(name == "sinks" for name, _ in attention.named_parameters(recurse=False))


def _heads(attention: nn.Module | None, config: Any) -> tuple[int, int, int]:
    heads = int(getattr(config, "num_attention_heads", 0) or 0)
    own_heads = getattr(attention, "num_heads", None)
    heads = own_heads if isinstance(own_heads, int) else heads
    hidden = int(getattr(config, "hidden_size", 0) or 0)
    own_dim = getattr(attention, "head_dim", None) or getattr(config, "head_dim", None)
    head_dim = int(own_dim) if own_dim else hidden // max(1, heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    key = getattr(attention, "k_proj", None)
    if isinstance(key, nn.Linear) and head_dim:
        kv_heads = key.out_features // head_dim
    # Not from the width of q_proj: some models put an output gate into it.
    groups = getattr(attention, "num_key_value_groups", None)
    return (kv_heads * groups if isinstance(groups, int) else heads), kv_heads, head_dim


def _feed_forward(layer: nn.Module) -> str:
    experts = any(
        parameter.dim() == 3 or ".experts." in f".{name}."
        for name, parameter in layer.named_parameters()
        if not name.startswith(ATTENTION_NAMES + STATEFUL_NAMES)
    )
    dense = any(
        name.split(".")[0] not in ATTENTION_NAMES + STATEFUL_NAMES
        and "experts" not in name.split(".")
        and name.rpartition(".")[2] not in ROUTER_NAMES
        for name, module in layer.named_modules()
        if _is_linear(module)
    )
    if experts:
        return "both" if dense else "experts"
    return "dense" if dense else "none"


def _with_owners(
    layers: tuple[LayerProfile, ...], modules: list[nn.Module]
) -> tuple[LayerProfile, ...]:
    """Point layers that own no key projection to the last earlier layer of their kind."""
    from dataclasses import replace

    result: list[LayerProfile] = []
    last: dict[str, int] = {}
    for layer, module in zip(layers, modules, strict=True):
        attention = _child(module, ATTENTION_NAMES)
        shares = (
            isinstance(getattr(attention, "q_proj", None), nn.Module)
            and not isinstance(getattr(attention, "k_proj", None), nn.Module)
            and layer.attention in last
        )
        if shares:
            result.append(replace(layer, kv_owner=last[layer.attention]))
        else:
            last[layer.attention] = layer.index
            result.append(layer)
    return tuple(result)


def _linear_paths(layer: nn.Module) -> Iterator[tuple[str, str]]:
    """Paths of what a LoRA could attach to, with the reason where it should not."""
    attention = _child(layer, ATTENTION_NAMES)
    plain = attention is not None and _is_plain(attention)
    for name, module in layer.named_modules():
        parts = name.split(".")
        own = [p for p, tensor in module.named_parameters(recurse=False) if tensor.dim() == 3]
        for parameter in own:
            if not isinstance(module, nn.Conv1d):
                yield f"{name}.{parameter}", "experts stored as one tensor, not linear modules"
        if not _is_linear(module):
            # Wrapped linear modules are rejected by PEFT, so the profile must not offer them.
            if isinstance(module, nn.Linear):
                yield name, f"a {type(module).__name__}, not a plain linear module"
            continue
        if parts[-1] in ROUTER_NAMES:
            yield name, "a router"
        elif "experts" in parts:
            yield name, "one expert of many"
        elif parts[0] in ATTENTION_NAMES + STATEFUL_NAMES and not (
            plain or (parts[0] in ATTENTION_NAMES and parts[-1] in OUTPUT_PROJECTIONS)
        ):
            yield name, "part of an attention that is not plain keys and values"
        else:
            yield name, ""


def _cache_kind(layers: tuple[LayerProfile, ...]) -> str:
    if any(layer.attention in ("linear", "other") for layer in layers):
        return "state"
    if any(layer.kv_owner != layer.index for layer in layers):
        return "shared"
    return "kv"
