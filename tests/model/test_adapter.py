"""The adapter as bytes: one adapter has one digest, and gives itself back."""

import torch

from engrain.model.adapter import Adapter


def test_the_same_adapter_gives_the_same_bytes() -> None:
    """Metadata of safetensors comes in any order: with one file in two, a digest proves nothing."""
    tensors = {f"layer.{i}": torch.arange(6.0).reshape(2, 3) + i for i in range(3)}
    adapter = Adapter("lora", tensors, {"rank": 2, "alpha": 4.0})
    turned = Adapter("lora", dict(reversed(tensors.items())), {"alpha": 4.0, "rank": 2})
    assert len({made.to_bytes() for made in [adapter, turned] * 40}) == 1


def test_bytes_give_the_adapter_back() -> None:
    from safetensors.torch import load

    tensors = {"b": torch.randn(3, 5), "a": torch.randn(2).to(torch.bfloat16)}
    raw = Adapter("full", tensors, {"name": "Ünï"}).to_bytes()
    again = Adapter.from_bytes(raw)
    assert (again.architecture, again.settings) == ("full", {"name": "Ünï"})
    for found in (again.tensors, load(raw)):
        assert set(found) == set(tensors)
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)
