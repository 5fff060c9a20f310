"""Small GGUF files of random models, written the way llama.cpp's converter writes them."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter

from engrain.model.testing import CHATML, SPECIAL_TOKENS, byte_tokenizer, tiny_config

PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GEMMA = {
    **PARTS,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
F32, Q8_0 = GGMLQuantizationType.F32, GGMLQuantizationType.Q8_0


def random_model(family: str, *, tied: bool = True) -> Any:
    """A model whose weights are bf16 numbers, norms and biases random, too."""
    from transformers import AutoModelForCausalLM

    config = tiny_config(family, tied=tied, layers=6 if family == "gemma3" else 2)
    if family == "gemma3":
        config.layer_types = ["sliding_attention"] * 5 + ["full_attention"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config).float().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.3 * torch.randn(parameter.shape))
                parameter.copy_(parameter.bfloat16().float())
    return model


def write(
    path: Path,
    model: Any,
    *,
    family: str | None = None,
    kind: GGMLQuantizationType = F32,
    drop: str = "",
    output: torch.Tensor | None = None,
    **metadata: Any,
) -> Path:
    """Write a model; ``drop`` leaves a tensor out, ``output`` is a matrix of its own."""
    config = model.config
    name = family or {"gemma3_text": "gemma3"}.get(config.model_type, config.model_type)
    writer = GGUFWriter(path, name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(1e6 if name == "gemma3" else 10000.0)
    if name in ("qwen3", "gemma3"):
        writer.add_key_length(config.head_dim)
    if name == "gemma3":
        writer.add_sliding_window(config.sliding_window)
    _add_tokenizer(writer)
    for key, value in metadata.items():
        writer.add_string(key.replace("__", "."), value)
    for published, tensor in _tensors(model):
        stored = _stored(published, name)
        if stored != drop:
            values = _as_stored(published, tensor, name, config)
            writer.add_tensor(stored, *_quantised(values, kind))
    if output is not None:
        writer.add_tensor("output.weight", *_quantised(output.numpy(), F32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: GGUFWriter) -> None:
    tokenizer = byte_tokenizer()
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    kinds = [3 if piece in SPECIAL_TOKENS else 1 for piece in pieces]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*pieces, *(f"[PAD{i}]" for i in range(260, 264))])
    writer.add_token_types([*kinds, *[5] * 4])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(3)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)


def _tensors(model: Any) -> list[tuple[str, torch.Tensor]]:
    return [(name, tensor.detach()) for name, tensor in model.named_parameters()]


def _stored(published: str, family: str) -> str:
    top = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if published in top:
        return top[published]
    _, _, layer, part = published.split(".", 3)
    part, _, suffix = part.rpartition(".")
    return f"blk.{layer}.{(GEMMA if family == 'gemma3' else PARTS)[part]}.{suffix}"


def _as_stored(published: str, tensor: torch.Tensor, family: str, config: Any) -> np.ndarray:
    values = tensor.float().numpy()
    if family == "gemma3" and "norm" in published:
        return values + 1
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for part, count in heads.items():
        if family == "llama" and part in published:
            shape = values.shape
            turned = values.reshape(count, 2, shape[0] // count // 2, *shape[1:])
            return turned.swapaxes(1, 2).reshape(shape)
    return values


def _quantised(
    values: np.ndarray, kind: GGMLQuantizationType
) -> tuple[np.ndarray, None, GGMLQuantizationType]:
    if values.ndim == 1:
        kind = F32
    return gguf.quantize(np.ascontiguousarray(values), kind), None, kind
