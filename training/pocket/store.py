"""Checkpoints and exported models on disk; everything appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.pocket.lean import Shape, to_hf

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write beside, flush to the disk, rename."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as f:
        torch.save(state, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path)


def digest(tensors: dict[str, Tensor]) -> str:
    """A hash of names and exact values."""
    h = hashlib.sha256()
    for name in sorted(tensors):
        h.update(name.encode())
        h.update(tensors[name].detach().contiguous().view(torch.uint8).numpy().tobytes())
    return h.hexdigest()


def read_shape(folder: Path) -> Shape:
    """The sizes in a model folder's `config.json`."""
    c = json.loads((folder / "config.json").read_text())
    if c["num_key_value_heads"] != c["num_attention_heads"] or not c["tie_word_embeddings"]:
        raise ValueError("only tied embeddings and full key heads are supported")
    rope = c.get("rope_parameters") or {"rope_theta": c.get("rope_theta", 10000.0)}
    return Shape(
        vocab=c["vocab_size"],
        width=c["hidden_size"],
        layers=c["num_hidden_layers"],
        heads=c["num_attention_heads"],
        head_dim=c["head_dim"],
        ffn=c["intermediate_size"],
        theta=rope["rope_theta"],
        eps=c["rms_norm_eps"],
        positions=c["max_position_embeddings"],
    )


def read_weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def hf_config(shape: Shape) -> Any:
    """The same sizes as a transformers configuration."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.ffn,
        rms_norm_eps=shape.eps,
        max_position_embeddings=shape.positions,
        rope_parameters={"rope_theta": shape.theta, "rope_type": "default"},
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=3,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )


def export(out: Path, step: int, params: dict[str, Tensor], shape: Shape, tokens: Path) -> Path:
    """Write a model folder that transformers loads; `out/hf` is a link that moves to it at once.

    `tokens`: the folder with tokenizer.json and tokenizer_config.json. The folder before this
    one is kept for whoever is reading it, older ones are removed.
    """
    folder = out / f"hf-{step:06d}"
    temporary = out / "hf.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = to_hf(params, shape, torch.bfloat16)
    save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})
    hf_config(shape).save_pretrained(temporary)
    stop = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 3}
    (temporary / "generation_config.json").write_text(json.dumps(stop, indent=2) + "\n")
    shutil.copyfile(tokens / "tokenizer.json", temporary / "tokenizer.json")
    settings = json.loads((tokens / "tokenizer_config.json").read_text())
    settings |= {"chat_template": CHAT_TEMPLATE, "model_max_length": shape.positions}
    (temporary / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    before = (out / "hf").resolve()
    (out / "hf.link").unlink(missing_ok=True)
    (out / "hf.link").symlink_to(folder.name)
    os.replace(out / "hf.link", out / "hf")
    for old in out.glob("hf-*"):
        if old.resolve() not in (before, folder.resolve()):
            shutil.rmtree(old, ignore_errors=True)
    return folder
