"""The growing cache is the plain dynamic cache, without the copies."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicLayer

from engrain.model.cache import GrowingLayer, common_prefix, padded


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("aaacrs"), st.integers(1, 90)), max_size=12))
def test_growing_layer_equals_the_plain_one(actions: list[tuple[str, int]]) -> None:
    generator = torch.Generator().manual_seed(0)
    plain, growing = DynamicLayer(), GrowingLayer()
    rows = 2
    for action, number in actions:
        if action == "a":
            keys, values = torch.randn(2, rows, 3, number, 4, generator=generator)
            expected, got = plain.update(keys, values), growing.update(keys, values)
            assert torch.equal(expected[0], got[0]) and torch.equal(expected[1], got[1])
        elif not plain.is_initialized:
            continue
        elif action == "c" and number < plain.get_seq_length():
            plain.crop(number - plain.get_seq_length())
            growing.truncate(number)
        elif action == "r" and rows < 8:
            rows *= 2
            plain.batch_repeat_interleave(2)
            growing.batch_repeat_interleave(2)
        elif action == "s":
            keep = torch.arange(0, rows, 2)
            rows = len(keep)
            plain.reorder_cache(keep)  # type: ignore[arg-type]
            growing.reorder_cache(keep)
        assert plain.get_seq_length() == growing.get_seq_length()
        if plain.is_initialized:
            assert plain.keys is not None and growing.keys is not None
            assert torch.equal(plain.keys, growing.keys)


def test_growing_layer_writes_in_place() -> None:
    layer = GrowingLayer()
    layer.update(torch.ones(1, 1, 4, 2), torch.ones(1, 1, 4, 2))
    assert layer.keys is not None
    place = layer.keys.data_ptr()
    for _ in range(50):
        layer.update(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
    assert layer.keys.data_ptr() == place and layer.get_seq_length() == 54


@pytest.mark.parametrize(
    ("rows", "length"),
    [
        ([[1, 2, 3], [1, 2, 4]], 2),
        ([[1], [1, 2]], 1),
        ([[1], [2]], 0),
        ([[], [1]], 0),
        ([[5, 6]], 2),
    ],
)
def test_common_prefix(rows: list[list[int]], length: int) -> None:
    assert common_prefix(rows) == length


def test_padding() -> None:
    ids, mask = padded([[1, 2], [3]], 9, left=True)
    assert ids.tolist() == [[1, 2], [9, 3]] and mask.tolist() == [[1, 1], [0, 1]]
    ids, mask = padded([[1, 2], [3]], 9, left=False)
    assert ids.tolist() == [[1, 2], [3, 9]] and mask.tolist() == [[1, 1], [1, 0]]
