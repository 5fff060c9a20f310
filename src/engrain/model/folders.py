"""Models and adapters as folders that plain transformers and plain PEFT load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from engrain.model.loading import quiet

if TYPE_CHECKING:
    from torch import Tensor

    from engrain.model.adapter import Adapter
    from engrain.model.loaded import LoadedModel


def write_model(folder: Path, loaded: LoadedModel) -> None:
    """Write the live weights, the tokenizer, and the ids that end an answer."""
    from transformers import GenerationConfig

    with quiet():
        loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    settings = getattr(loaded.model, "generation_config", None) or GenerationConfig()
    kept: dict[str, Any] = settings.to_dict()
    # Whoever generates shall stop where an answer stops here, also where only a template says so.
    kept |= {"eos_token_id": list(loaded.stop_ids) or None, "pad_token_id": loaded.pad_id}
    GenerationConfig(**kept).save_pretrained(folder)


def write_adapter(folder: Path, adapter: Adapter, base: str) -> None:
    """Write PEFT's two files; ``base`` is what the adapter is loaded on."""
    import peft

    given: Mapping[str, Any] = {
        **adapter.settings,
        "base_model_name_or_path": base,
        "task_type": "CAUSAL_LM",
        "bias": "none",
        "inference_mode": True,
    }
    peft.LoraConfig(**given).save_pretrained(str(folder))
    tensors: dict[str, Tensor] = {k: v.contiguous() for k, v in sorted(adapter.tensors.items())}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
