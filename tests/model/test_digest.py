"""Digests change with every bit that matters, and with nothing else."""

import torch

from engrain.model.digest import base_digest, config_digest, tensor_digest


def weights() -> dict[str, torch.Tensor]:
    return {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}


def test_order_and_layout_do_not_matter() -> None:
    plain = weights()
    turned = {"b": plain["b"], "a": plain["a"].t().contiguous().t()}
    assert not turned["a"].is_contiguous()
    assert tensor_digest(plain) == tensor_digest(turned)


def test_known_value() -> None:
    # Recorded homes stand on this digest: it must not change from one version to the next.
    expected = "04907263edf770c5bd2e632e71effac7c06499bd78998a0ef141e751fdb6ad0c"
    assert tensor_digest(weights()) == expected


def test_every_part_matters() -> None:
    plain = weights()
    changed = [
        {**plain, "a": plain["a"].reshape(3, 2)},
        {**plain, "a": plain["a"].double()},
        {"c": plain["a"], "b": plain["b"]},
        {"a": plain["a"]},
        {**plain, "a": plain["a"] * -1},
    ]
    one_bit = plain["a"].clone()
    one_bit.view(torch.int32)[1, 2] ^= 1
    changed.append({**plain, "a": one_bit})
    zero = plain["a"].clone()
    zero[0, 0] = -0.0
    changed.append({**plain, "a": zero})
    digests = {tensor_digest(item) for item in [plain, *changed]}
    assert len(digests) == len(changed) + 1


def test_empty_and_scalar_tensors() -> None:
    first = tensor_digest({"a": torch.zeros(0), "b": torch.tensor(1.0)})
    assert first != tensor_digest({"a": torch.zeros(0, 2), "b": torch.tensor(1.0)})


def test_config_digest_ignores_how_it_was_saved() -> None:
    config = {"hidden_size": 4, "transformers_version": "5.1", "dtype": "float32"}
    again = {"dtype": "bfloat16", "hidden_size": 4}
    assert config_digest(config) == config_digest(again)
    assert base_digest(weights(), config) == base_digest(weights(), again)
    assert base_digest(weights(), config) != base_digest(weights(), {"hidden_size": 5})
