"""An adapter: a named change of weights on a base model, as tensors plus JSON-ready settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Adapter:
    """Tensors of one lesson's weight change, and what is needed to apply them.

    ``architecture`` names the technique that made it and that folds it into weights.
    ``tensors`` and ``settings`` of a LoRA are exactly PEFT's ``adapter_model.safetensors`` and
    ``adapter_config.json``.
    """

    architecture: str
    tensors: Mapping[str, Tensor] = field(repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def to_bytes(self) -> bytes:
        """The adapter as one safetensors file; settings travel in its header. Deterministic."""
        from safetensors.torch import save

        header = {
            "architecture": self.architecture,
            "settings": json.dumps(dict(self.settings), sort_keys=True),
        }
        tensors = {k: v.detach().contiguous() for k, v in sorted(self.tensors.items())}
        raw = bytes(save(tensors, metadata=header))
        # The library writes the header's metadata in an order that changes from call to call.
        length = int.from_bytes(raw[:8], "little")
        ordered = json.dumps(json.loads(raw[8 : 8 + length]), sort_keys=True).encode()
        ordered += b" " * (-len(ordered) % 8)
        return len(ordered).to_bytes(8, "little") + ordered + raw[8 + length :]

    @classmethod
    def from_bytes(cls, raw: bytes) -> Adapter:
        """The adapter that :meth:`to_bytes` gave."""
        from safetensors.torch import load

        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + length])["__metadata__"]
        return cls(header["architecture"], load(raw), json.loads(header["settings"]))
