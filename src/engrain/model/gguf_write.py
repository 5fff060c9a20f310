"""Models and adapters as GGUF files that llama.cpp runs: the way back from :mod:`.gguf`.

The format is written by llama.cpp's own package ``gguf`` (MIT); what is here says which tensor goes
where, in which order of rows, and with which metadata. A model that came from a GGUF file gets that
file's metadata, tokenizer and all; for others it is told from configuration and tokenizer.

Matrices are f16 or q8_0, vectors fp32, as llama.cpp's converter has them. An adapter is laid out as
by its ``convert_lora_to_gguf``: for each matrix ``NAME.lora_a`` (rank, in) and ``NAME.lora_b``
(out, rank), and one alpha; where ranks differ the factors are filled up with zeros, since llama.cpp
scales by alpha / rank.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, quantize
from torch import Tensor
from torch.nn.functional import pad

from engrain.errors import ExportError
from engrain.model.gguf import CLASSES, EMBEDDING, GEMMA_LAYER, LAYER, METADATA_FILE, OUTPUT
from engrain.model.gguf_file import GGUFFile
from engrain.model.gguf_vocabulary import Pair, vocabulary

if TYPE_CHECKING:
    from engrain.model.loaded import LoadedModel

QUANTS = {"f16": GGMLQuantizationType.F16, "q8_0": GGMLQuantizationType.Q8_0}
"""Ways of storing matrices, by the names that llama.cpp gives them."""
_FILE_TYPES = {"f16": 1, "q8_0": 7}
_F32, _F16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16
_BLOCK = 32
"""Numbers that share a scale in q8_0: rows must be a multiple of it."""
_FAMILIES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3_text": "gemma3"}
_OWN = ("general.architecture", "general.file_type", "general.quantization_version")
"""What a file says of itself and no other file may say after it."""
_NAME = re.compile(r"model\.layers\.(?P<layer>\d+)\.(?P<part>.+)\.(?P<suffix>weight|bias)")
_UINT, _FLOAT, _STRING = GGUFValueType.UINT32, GGUFValueType.FLOAT32, GGUFValueType.STRING


_Part = tuple[str, Tensor, Callable[[Tensor], Tensor]]
"""A tensor by its name in the file, and what makes of it what the file holds."""


def write_model(
    path: Path,
    loaded: LoadedModel,
    *,
    quant: str = "f16",
    name: str = "",
    about: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> None:
    """Write the live weights of a model.

    ``folder`` is where the model was loaded from: if it was made of a GGUF file, that file's
    metadata is copied. ``about`` are entries of the writer's own.

    Raises:
        ExportError: GGUF or llama.cpp has no such family, tokenizer or value.
    """
    layout = Layout.of(loaded)
    tensors = [*_rope_factors(loaded), *loaded.weights().items()]
    writer = GGUFWriter(path, layout.family)
    try:
        kept = folder / METADATA_FILE if folder else None
        pairs = _copied(kept) if kept and kept.is_file() else _told(loaded, layout.family, name)
        for key, value, kind, inner in pairs:
            # The package refuses arrays of no values; a tokenizer without merges has one.
            if value != []:
                writer.add_key_value(key, value, kind, inner)
        writer.add_file_type(_FILE_TYPES[quant])
        writer.add_quantization_version(2)
        for key, value in (about or {}).items():
            writer.add_string(key, value)
        parts = [(layout.stored(n), t, partial(layout.values, n)) for n, t in tensors]
        _write(writer, parts, quant)
    finally:
        writer.close()


def write_adapter(
    path: Path,
    loaded: LoadedModel,
    factors: Mapping[str, tuple[Tensor, Tensor]],
    *,
    name: str = "",
    about: Mapping[str, str] | None = None,
) -> None:
    """Write a low-rank change, given as A and B by module, its scale within B.

    Raises:
        ExportError: GGUF or llama.cpp has no such family or matrix.
    """
    layout = Layout.of(loaded)
    rank = max(low.shape[0] for low, _ in factors.values())
    writer = GGUFWriter(path, layout.family)
    try:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", float(rank))
        if name:
            writer.add_name(name)
        for key, value in (about or {}).items():
            writer.add_string(key, value)
        _write(writer, list(_factors(layout, factors, rank)), "f32")
    finally:
        writer.close()


def _factors(
    layout: Layout, factors: Mapping[str, tuple[Tensor, Tensor]], rank: int
) -> Iterator[_Part]:
    for module, (low, high) in factors.items():
        name = f"{module}.weight"
        stored, more = layout.stored(name), rank - low.shape[0]
        # Only the rows of B are rows of the matrix.
        yield f"{stored}.lora_a", pad(low, (0, 0, 0, more)), Tensor.float
        yield f"{stored}.lora_b", pad(high, (0, more)), partial(layout.values, name)


@dataclass(frozen=True)
class Layout:
    """Where the tensors of a family lie in its GGUF files."""

    family: str
    heads: int
    kv_heads: int

    @classmethod
    def of(cls, loaded: LoadedModel) -> Layout:
        """The layout of a model.

        Raises:
            ExportError: its family is not one that is written.
        """
        config = loaded.model.config.get_text_config(decoder=True)
        family = _FAMILIES.get(str(config.model_type))
        if family is None:
            raise ExportError(
                f"The family {config.model_type!r} is not written as GGUF.",
                remedy=f"Written are: {', '.join(CLASSES)}. Use --format transformers, and "
                "llama.cpp's own converter on that folder.",
            )
        heads = int(config.num_attention_heads)
        return cls(family, heads, int(getattr(config, "num_key_value_heads", heads)))

    def stored(self, published: str) -> str:
        """The name of a tensor in the file."""
        top = {
            "rope_freqs.weight": "rope_freqs.weight",
            "model.embed_tokens.weight": EMBEDDING,
            "model.norm.weight": "output_norm.weight",
            "lm_head.weight": OUTPUT,
        }
        if published in top:
            return top[published]
        names = GEMMA_LAYER if self.family == "gemma3" else LAYER
        parts = {own: stored for stored, own in names.items()}
        match = _NAME.fullmatch(published)
        if match is None or match["part"] not in parts:
            raise ExportError(
                f"The tensor {published!r} has no place in a GGUF file of {self.family!r}.",
                remedy="Use --format transformers.",
            )
        return f"blk.{match['layer']}.{parts[match['part']]}.{match['suffix']}"

    def values(self, published: str, tensor: Tensor) -> Tensor:
        """A tensor as the file holds it, in fp32."""
        values = tensor.detach().to("cpu", torch.float32)
        if self.family == "gemma3" and published.endswith("norm.weight"):
            return values + 1.0
        heads = {"q_proj": self.heads, "k_proj": self.kv_heads}
        count = next((n for part, n in heads.items() if f".{part}." in published), 0)
        if self.family == "llama" and count:
            # llama.cpp rotates neighbours, transformers the first half of a head with the second.
            halves = values.reshape(count, 2, values.shape[0] // count // 2, *values.shape[1:])
            return halves.transpose(1, 2).reshape(values.shape)
        return values


def _write(writer: GGUFWriter, parts: Sequence[_Part], quant: str) -> None:
    """Write everything; a tensor is made as the file has it when its turn comes, and let go."""
    for name, tensor, _ in parts:
        kind = _kind(tensor, quant)
        shape, dtype, size = _encoded(tensor, kind)
        writer.add_tensor_info(name, shape, dtype, size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor, stored in parts:
        writer.write_tensor_data(_encode(name, stored(tensor), _kind(tensor, quant)))


def _kind(values: Tensor, quant: str) -> GGMLQuantizationType:
    if values.ndim == 1 or quant == "f32":
        return _F32
    return QUANTS[quant] if quant != "q8_0" or values.shape[-1] % _BLOCK == 0 else _F16


def _encoded(
    values: Tensor, kind: GGMLQuantizationType
) -> tuple[Sequence[int], np.dtype[Any], int]:
    """Shape, type and bytes of what :func:`_encode` will give."""
    count = values.numel()
    if kind == GGMLQuantizationType.Q8_0:
        bytes_a_row = values.shape[-1] // _BLOCK * (_BLOCK + 2)
        shape = (*values.shape[:-1], bytes_a_row)
        return shape, np.dtype(np.uint8), count // _BLOCK * (_BLOCK + 2)
    dtype = np.dtype(np.float32 if kind == _F32 else np.float16)
    return tuple(values.shape), dtype, count * dtype.itemsize


def _encode(name: str, values: Tensor, kind: GGMLQuantizationType) -> np.ndarray:
    numbers = np.ascontiguousarray(values.numpy())
    if kind == _F32:
        return numbers
    if float(np.abs(numbers).max(initial=0.0)) > float(np.finfo(np.float16).max):
        raise ExportError(
            f"{name!r} holds numbers that f16 can't hold.", remedy="Use --format transformers."
        )
    if kind == _F16:
        return numbers.astype(np.float16)
    packed: np.ndarray = quantize(numbers, kind)
    return packed


# ---------------------------------------------------------------------------- metadata


def _copied(path: Path) -> list[Pair]:
    """The metadata of the file that the model came from, but what it says of its own storage."""
    file, found = GGUFFile(path), []
    for key, value in file.metadata.items():
        if key in _OWN or key.startswith(("quantize.", "split.", "general.alignment")):
            continue
        kind, inner = file.kinds[key]
        sub = GGUFValueType(inner) if inner is not None else None
        found.append((key, value, GGUFValueType(kind), sub))
    return found


def _told(loaded: LoadedModel, family: str, name: str) -> list[Pair]:
    """The metadata of a model that did not come from a GGUF file."""
    config = loaded.model.config.get_text_config(decoder=True)
    heads = int(config.num_attention_heads)
    head = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    rows = loaded.profile.vocab_size
    numbers = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", heads),
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": head,
        "vocab_size": rows,
    }
    window = getattr(config, "sliding_window", None)
    if family == "gemma3":
        _check_gemma(config, head)
        numbers["attention.sliding_window"] = window
    elif window and any(kind == "sliding_attention" for kind in _layer_types(config)):
        raise ExportError(
            f"A model of {family!r} that looks back only {window} tokens is not written as GGUF.",
            remedy="Use --format transformers.",
        )
    pairs: list[Pair] = [("general.type", "model", _STRING, None)]
    if name:
        pairs.append(("general.name", name, _STRING, None))
    pairs += [(f"{family}.{key}", int(value), _UINT, None) for key, value in numbers.items()]
    floats = {"attention.layer_norm_rms_epsilon": config.rms_norm_eps, **_rope(config, family)}
    pairs += [(f"{family}.{key}", float(value), _FLOAT, None) for key, value in floats.items()]
    kind, length = _scaling(config, family)
    if kind:
        pairs.append((f"{family}.rope.scaling.type", kind, _STRING, None))
    if length:
        key = f"{family}.rope.scaling.original_context_length"
        pairs.append((key, length, _UINT, None))
    return [*pairs, *vocabulary(loaded.tokenizer, rows, loaded.stop_ids)]


def _check_gemma(config: Any, head: int) -> None:
    """Refuse what llama.cpp takes for granted of the family and this model does otherwise."""
    full = [place for place, kind in enumerate(_layer_types(config)) if kind == "full_attention"]
    layers = int(config.num_hidden_layers)
    largest = layers == 62
    scale = config.hidden_size // config.num_attention_heads if largest else head
    if full != list(range(5, layers, 6)) or float(config.query_pre_attn_scalar) != float(scale):
        raise ExportError(
            "This model's layers look back, or scale, in another order than its family's.",
            remedy="Use --format transformers.",
        )


def _layer_types(config: Any) -> Sequence[str]:
    return getattr(config, "layer_types", None) or ()


def _full_rope(config: Any, family: str) -> Mapping[str, Any]:
    """How positions turn the keys of layers that see everything."""
    found = dict(config.rope_parameters)
    return dict(found["full_attention"]) if family == "gemma3" else found


def _rope(config: Any, family: str) -> dict[str, float]:
    rope = _full_rope(config, family)
    found = {"rope.freq_base": rope["rope_theta"]}
    if family == "gemma3":
        found["rope.freq_base_swa"] = config.rope_parameters["sliding_attention"]["rope_theta"]
    if rope.get("rope_type") in ("linear", "yarn"):
        found["rope.scaling.factor"] = rope["factor"]
    return found


def _scaling(config: Any, family: str) -> tuple[str, int]:
    rope = _full_rope(config, family)
    kind = str(rope.get("rope_type", "default"))
    if kind in ("default", "llama3"):
        return "", 0
    if kind not in ("linear", "yarn"):
        raise ExportError(
            f"Positions that are scaled by {kind!r} are not written as GGUF.",
            remedy="Use --format transformers.",
        )
    return kind, int(rope.get("original_max_position_embeddings") or 0) if kind == "yarn" else 0


def _rope_factors(loaded: LoadedModel) -> list[tuple[str, Tensor]]:
    """What Llama 3's way of scaling positions comes to: llama.cpp reads that, not the way."""
    config = loaded.model.config.get_text_config(decoder=True)
    if str(config.model_type) != "llama":
        return []
    rope = dict(config.rope_parameters)
    if rope.get("rope_type") != "llama3":
        return []
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    count = 2 * len(scaled)
    plain = float(rope["rope_theta"]) ** -(torch.arange(0, count, 2).double() / count)
    return [("rope_freqs.weight", (plain / scaled.double()).float())]
