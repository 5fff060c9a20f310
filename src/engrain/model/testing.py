"""Tiny random models of real architectures, for tests: no download, a few milliseconds each.

The tokenizer has one token a byte and the ChatML template of the pocket model, so any text can be
encoded and every id can be decoded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from engrain.model.digest import base_digest
from engrain.model.loading import LoadedModel, assemble

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY = 264
"""Rows of the embedding: 256 bytes, 4 special tokens, and 4 that no text uses."""

SLIDING = ("mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gemma4")


def byte_tokenizer(*, chat_template: str | None = CHATML) -> Any:
    """A tokenizer with one token a byte and ChatML's special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # Not the library's alphabet() order, which is random from one process to the next.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_config(
    architecture: str = "llama",
    *,
    tied: bool = True,
    kv_heads: int = 2,
    sliding_window: int | None = None,
    layers: int = 2,
    hidden: int = 64,
    max_length: int = 512,
) -> Any:
    """The configuration behind :func:`tiny_model`, of transformers' own class."""
    import transformers

    kind: Any
    if sliding_window is not None and architecture not in SLIDING:
        raise ValueError(f"{architecture} has no sliding window; use one of {SLIDING}")
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // 4,
        "max_position_embeddings": max_length,
        "tie_word_embeddings": tied,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 3,
        # Wider than usual: with flat logits the best two tokens would be near ties.
        "initializer_range": 0.1,
    }
    half = ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(layers)]
    plain = {"llama": "Llama", "olmo2": "Olmo2", "phi3": "Phi3", "smollm3": "SmolLM3"}
    if architecture in plain:
        return getattr(transformers, f"{plain[architecture]}Config")(**common)
    if architecture == "mistral":
        return transformers.MistralConfig(**common, sliding_window=sliding_window)
    if architecture in ("qwen2", "qwen3"):
        kind = transformers.Qwen2Config if architecture == "qwen2" else transformers.Qwen3Config
        if sliding_window is None:
            return kind(**common)
        return kind(
            **common, use_sliding_window=True, sliding_window=sliding_window, layer_types=half
        )
    if architecture == "qwen3_moe":
        return transformers.Qwen3MoeConfig(
            **common, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=hidden
        )
    if architecture == "gemma2":
        return transformers.Gemma2Config(
            **common, sliding_window=sliding_window or 16, query_pre_attn_scalar=hidden // 4
        )
    if architecture == "gemma3":
        return transformers.Gemma3TextConfig(
            **common,
            sliding_window=sliding_window or 16,
            layer_types=half,
            query_pre_attn_scalar=hidden // 4,
        )
    if architecture == "gemma4":
        # Two of the layers read the keys and values of the two before them.
        layers = max(4, layers)
        kind = transformers.Gemma4TextConfig
        return kind(
            **{**common, "num_hidden_layers": layers},
            sliding_window=sliding_window or 16,
            layer_types=["sliding_attention", "full_attention"] * (layers // 2),
            num_kv_shared_layers=2,
            global_head_dim=hidden // 4,
            hidden_size_per_layer_input=8,
            vocab_size_per_layer_input=VOCABULARY,
        )
    if architecture == "lfm2":
        # Every other layer is a short convolution: its cache is a state, not keys and values.
        del common["head_dim"]
        return transformers.Lfm2Config(
            **common,
            layer_types=["conv" if i % 2 == 0 else "full_attention" for i in range(layers)],
            block_auto_adjust_ff_dim=False,
        )
    if architecture == "gpt2":
        return transformers.GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=hidden,
            n_layer=layers,
            n_head=4,
            n_positions=max_length,
            tie_word_embeddings=tied,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=3,
            initializer_range=0.1,
        )
    raise ValueError(f"no tiny model of the architecture {architecture!r}")


def tiny_model(
    architecture: str = "llama",
    *,
    tied: bool = True,
    kv_heads: int = 2,
    sliding_window: int | None = None,
    layers: int = 2,
    hidden: int = 64,
    max_length: int = 512,
    seed: int = 0,
    chat_template: str | None = CHATML,
) -> LoadedModel:
    """A randomly initialised model of a real architecture, under one million parameters.

    Known architectures: llama, qwen2, qwen3, qwen3_moe, mistral, gemma2, gemma3, gemma4, olmo2,
    phi3, smollm3, lfm2, gpt2. The same arguments give the same weights.

    Example:
        >>> tiny_model("qwen3", tied=False).profile.model_type
        'qwen3'
    """
    from transformers import AutoModelForCausalLM

    config = tiny_config(
        architecture,
        tied=tied,
        kv_heads=kv_heads,
        sliding_window=sliding_window,
        layers=layers,
        hidden=hidden,
        max_length=max_length,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    model.to(torch.float32)
    return assemble(
        model,
        byte_tokenizer(chat_template=chat_template),
        source=f"tiny-{architecture}",
        base_digest=base_digest(
            {**dict(model.named_parameters()), **_persistent_buffers(model)},
            _saved_config(model.config),
        ),
        allow_no_template=chat_template is None,
    )


def save_tiny(loaded: LoadedModel, folder: Path) -> Path:
    """Write a model as transformers does, to test loading from a folder."""
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


def _persistent_buffers(model: Any) -> dict[str, torch.Tensor]:
    stored = set(model.state_dict())
    return {name: tensor for name, tensor in model.named_buffers() if name in stored}


def _saved_config(config: Any) -> dict[str, Any]:
    import json

    saved: dict[str, Any] = json.loads(config.to_json_string())
    return saved
