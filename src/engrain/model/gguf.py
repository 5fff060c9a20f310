"""A GGUF file as a folder that transformers loads: bf16 safetensors, configuration, tokenizer.

The tensors are dequantised one by one and written as they come, so the peak is a few slices, not
the weights. Everything that goes into the base digest, tensors and ``config.json``, is made here
and is the same to the bit on every machine: the digest of a model does not depend on where its
file came from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engrain.errors import CorruptModelError, EngrainError, UnsupportedModelError
from engrain.model.gguf_file import GGUFFile
from engrain.model.gguf_tokenizer import write_tokenizer

Progress = Callable[[int, int], None]
"""Called with how much is done and how much there is."""

CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
}
"""The families that are read, by what GGUF calls the architecture."""
ALIGNMENT = 64
"""Bytes at which the tensors begin: mapped weights are then read as fast as private ones."""
METADATA_FILE = "metadata.gguf"
"""The head of the file that a folder was made of, without tensors: an export copies it."""

LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GEMMA_LAYER = {
    **LAYER,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
_IGNORED = ("rope_freqs.weight",)
"""Tensors that the configuration says already."""


@dataclass(frozen=True)
class _Source:
    """Where a tensor of the converted model comes from."""

    stored: str
    shape: tuple[int, ...]
    heads: int = 0
    """Heads whose rows llama.cpp has reordered; 0 where the rows are as published."""
    minus_one: bool = False


def convert(path: Path, folder: Path, progress: Progress | None = None) -> None:
    """Write the model of a GGUF file into an existing folder.

    Raises:
        CorruptModelError: the file is no GGUF file, or ends too early.
        UnsupportedModelError: another family, or a way of storing that can't be read.
    """
    file = GGUFFile(path)
    try:
        config = read_config(file)
        sources = _sources(file, config)
        (folder / "config.json").write_text(
            json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )
        write_tokenizer(file.metadata, folder, str(path))
        (folder / METADATA_FILE).write_bytes(file.head())
        _write_tensors(file, sources, folder / "model.safetensors", progress)
    except (EngrainError, OSError):
        raise
    except Exception as error:
        # Metadata of a wrong type, merges of unknown pieces: numpy and tokenizers say it their way.
        raise CorruptModelError(
            f"{path} can't be converted: {type(error).__name__}: {str(error)[:200]}.",
            remedy="Get the file again, or from another source.",
        ) from error


def converted_bytes(path: Path) -> int:
    """Bytes that the folder will take, tokenizer and all, within a few per cent."""
    file = GGUFFile(path)
    return sum(2 * tensor.numel for tensor in file.tensors.values()) + (64 << 20)


def read_config(file: GGUFFile) -> dict[str, Any]:
    """What transformers needs to know, from the metadata, with nothing that does not matter."""
    family = file.metadata.get("general.architecture")
    if family not in CLASSES:
        raise UnsupportedModelError(
            f"{file.path} holds a model of the family {family!r}.",
            remedy=f"Supported families are: {', '.join(CLASSES)}.",
        )
    get = _Reader(file, family)
    if get("expert_count", 0):
        raise UnsupportedModelError(
            f"{file.path} holds a mixture of experts.",
            remedy=f"Give a dense model of one of the families {', '.join(CLASSES)}.",
        )
    hidden, heads = int(get("embedding_length")), int(get("attention.head_count"))
    config: dict[str, Any] = {
        "architectures": [CLASSES[family]],
        "model_type": "gemma3_text" if family == "gemma3" else family,
        "dtype": "bfloat16",
        "hidden_size": hidden,
        "intermediate_size": int(get("feed_forward_length")),
        "max_position_embeddings": int(get("context_length")),
        "num_attention_heads": heads,
        "num_hidden_layers": int(get("block_count")),
        "num_key_value_heads": int(get("attention.head_count_kv", heads)),
        "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": _is_tied(file, family, hidden),
        "vocab_size": file.tensors[EMBEDDING].shape[0],
    }
    for name in ("bos", "eos", "padding"):
        place = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
        config[f"{'pad' if name == 'padding' else name}_token_id"] = place
    if family in ("llama", "qwen3", "gemma3"):
        config["head_dim"] = int(get("attention.key_length", hidden // heads))
    if family == "llama":
        biased = "blk.0.attn_q.bias" in file.tensors
        config |= {"attention_bias": biased, "mlp_bias": "blk.0.ffn_up.bias" in file.tensors}
    elif family == "qwen3":
        config["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
    if family == "gemma3":
        config |= _gemma(get, config)
    else:
        config |= {"hidden_act": "silu", "rope_parameters": _rope(file, get)}
    return config


class _Reader:
    """Reads the keys of one family and says which is missing."""

    def __init__(self, file: GGUFFile, family: str) -> None:
        self.file, self.family = file, family

    def __call__(self, key: str, default: Any = None) -> Any:
        found = self.file.metadata.get(f"{self.family}.{key}", default)
        if found is None:
            raise UnsupportedModelError(
                f"{self.file.path} does not say its {self.family}.{key}.",
                remedy="Convert the model again with a current llama.cpp.",
            )
        if isinstance(found, list):
            if len(set(found)) != 1:
                raise UnsupportedModelError(
                    f"{self.file.path} has layers that differ in {key}.",
                    remedy=f"Give a plain model of one of the families {', '.join(CLASSES)}.",
                )
            return found[0]
        return found


def _is_tied(file: GGUFFile, family: str, hidden: int) -> bool:
    """Whether input and output share one matrix.

    Some files of tied models hold the output matrix once more, in better precision than the
    embedding; a file does not say so, but the sizes at which the families' publishers tie do.
    """
    if EMBEDDING not in file.tensors:
        raise UnsupportedModelError(
            f"{file.path} has no {EMBEDDING}.", remedy="Give the file of a whole model."
        )
    if OUTPUT not in file.tensors or family == "gemma3":
        return True
    # Qwen2.5 up to 3B (2048) and Qwen3 up to 4B (2560) tie. Without that knowledge a matrix that
    # is really another one would be thrown away, so the two copies are compared as well.
    return family in ("qwen2", "qwen3") and hidden <= 2560 and _nearly_equal(file)


def _nearly_equal(file: GGUFFile) -> bool:
    """Whether embedding and output matrix are two roundings of one: by their first rows."""
    if file.tensors[EMBEDDING].shape != file.tensors[OUTPUT].shape:
        return False
    one, other = (next(file.read(name))[:256].flatten() for name in (EMBEDDING, OUTPUT))
    return bool(torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.95)


def _rope(file: GGUFFile, get: _Reader) -> dict[str, Any]:
    theta = get("rope.freq_base", 10000.0)
    kind = get("rope.scaling.type", "none")
    if "rope_freqs.weight" in file.tensors:
        return {"rope_theta": theta, **_llama3_rope(file, get, theta)}
    if kind == "none":
        return {"rope_theta": theta, "rope_type": "default"}
    if kind not in ("linear", "yarn"):
        raise UnsupportedModelError(
            f"{file.path} scales positions by {kind!r}.",
            remedy="Supported are: none, linear, yarn, and the frequencies of Llama 3.",
        )
    found = {"rope_theta": theta, "rope_type": kind, "factor": get("rope.scaling.factor")}
    if kind == "yarn":
        found["original_max_position_embeddings"] = int(get("rope.scaling.original_context_length"))
    return found


def _llama3_rope(file: GGUFFile, get: _Reader, theta: float) -> dict[str, Any]:
    """Find the parameters of Llama 3's scaling again: the file holds only what came out of them."""
    stored = torch.cat(list(file.read("rope_freqs.weight"))).flatten().double()
    factor, low, high, length = round(stored.max().item(), 3), 1.0, 4.0, 8192
    frequencies = theta ** -(torch.arange(0, 2 * len(stored), 2).double() / (2 * len(stored)))
    waves = 2 * torch.pi / frequencies
    smooth = ((length / waves - low) / (high - low)).clamp(0, 1)
    expected = 1 / ((1 - smooth) / factor + smooth)
    if not torch.allclose(stored, expected, rtol=1e-4):
        raise UnsupportedModelError(
            f"{file.path} scales positions by frequencies of its own.",
            remedy="Supported are: none, linear, yarn, and the frequencies of Llama 3.",
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": length,
    }


def _gemma(get: _Reader, config: Mapping[str, Any]) -> dict[str, Any]:
    layers = int(config["num_hidden_layers"])
    # Every sixth layer sees everything; the largest model alone (62 layers) scales by the width.
    pattern = 6
    scale = config["hidden_size"] // config["num_attention_heads"] if layers == 62 else None
    full: dict[str, Any] = {"rope_theta": get("rope.freq_base", 1e6), "rope_type": "default"}
    if get("rope.scaling.type", "none") == "linear":
        full |= {"rope_type": "linear", "factor": get("rope.scaling.factor")}
    local = {"rope_theta": get("rope.freq_base_swa", 10000.0), "rope_type": "default"}
    return {
        "attention_bias": False,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": scale or config["head_dim"],
        "sliding_window": int(get("attention.sliding_window")),
        "layer_types": [
            "sliding_attention" if (layer + 1) % pattern else "full_attention"
            for layer in range(layers)
        ],
        "rope_parameters": {"full_attention": full, "sliding_attention": local},
    }


def _sources(file: GGUFFile, config: Mapping[str, Any]) -> dict[str, _Source]:
    """The tensors of the converted model by their published names, and where each comes from."""
    family = file.metadata["general.architecture"]
    tied = config["tie_word_embeddings"]
    names = GEMMA_LAYER if family == "gemma3" else LAYER
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    found: dict[str, _Source] = {}
    for stored, tensor in file.tensors.items():
        prefix, _, rest = stored.partition(".")
        if stored == EMBEDDING:
            best = OUTPUT if tied and OUTPUT in file.tensors else EMBEDDING
            found["model.embed_tokens.weight"] = _Source(best, tensor.shape)
        elif stored == OUTPUT:
            if not tied:
                found["lm_head.weight"] = _Source(stored, tensor.shape)
        elif stored == "output_norm.weight":
            found["model.norm.weight"] = _Source(stored, tensor.shape, minus_one=family == "gemma3")
        elif prefix == "blk" and rest.split(".")[1] in names:
            layer, part, suffix = rest.split(".")
            found[f"model.layers.{layer}.{names[part]}.{suffix}"] = _Source(
                stored,
                tensor.shape,
                heads=heads.get(part, 0) if family == "llama" else 0,
                minus_one=family == "gemma3" and part.endswith("norm"),
            )
        elif stored not in _IGNORED:
            raise UnsupportedModelError(
                f"{file.path} has a tensor {stored!r}, which the family {family!r} does not have.",
                remedy=f"Give a plain model of one of the families {', '.join(CLASSES)}.",
            )
    _check_whole(file, family, config["num_hidden_layers"], names)
    return dict(sorted(found.items()))


def _check_whole(file: GGUFFile, family: str, layers: int, names: Mapping[str, str]) -> None:
    """Check that every layer has its matrices: a file may be cut between two of its tensors."""
    normed = family in ("qwen3", "gemma3")
    parts = [part for part in names if normed or part not in ("attn_q_norm", "attn_k_norm")]
    wanted = [f"blk.{layer}.{part}.weight" for layer in range(layers) for part in parts]
    missing = [name for name in (*wanted, "output_norm.weight") if name not in file.tensors]
    if missing:
        raise CorruptModelError(
            f"{file.path} lacks {len(missing)} tensors (the first: {missing[0]}).",
            remedy="Give the file of a whole model; a model in several files must be joined first.",
        )


def _write_tensors(
    file: GGUFFile, sources: Mapping[str, _Source], path: Path, progress: Progress | None
) -> None:
    """Write safetensors front to back: all sizes are known before the first value is."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, source in sources.items():
        begin, end = end, end + 2 * int(np.prod(source.shape))
        header[name] = {"dtype": "BF16", "shape": source.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    done = 0
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for source in sources.values():
            for values in _values(file, source):
                half = values.to(torch.bfloat16)
                done += out.write(half.view(torch.uint8).numpy().data)
                if progress is not None:
                    progress(done, end)
        out.flush()
        os.fsync(out.fileno())


def _values(file: GGUFFile, source: _Source) -> Iterator[Tensor]:
    rows = _published_rows(source) if source.heads else None
    for values in file.read(source.stored, rows):
        yield values - 1.0 if source.minus_one else values


def _published_rows(source: _Source) -> np.ndarray:
    """The order of rows in which a family with interleaved rotation was published.

    llama.cpp rotates neighbours, transformers the first half of a head against the second.
    """
    length = source.shape[0]
    order = np.arange(length).reshape(source.heads, length // source.heads // 2, 2)
    return order.swapaxes(1, 2).reshape(-1)
