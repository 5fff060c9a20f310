"""Choosing tokens, and decoding them as they come."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engrain.model.sampling import TextDecoder, choose, decode_after, row_uniforms, settled
from engrain.model.testing import byte_tokenizer

TOKENIZER = byte_tokenizer()


def test_greedy_is_the_largest() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [5.0, 4.0, 3.0]])
    assert choose(logits).tolist() == [1, 0]
    assert choose(logits, temperature=0.0, uniforms=torch.tensor([0.9, 0.9])).tolist() == [1, 0]


def test_sampling_follows_the_distribution() -> None:
    probabilities = torch.tensor([0.1, 0.0, 0.6, 0.3])
    count = 20_000
    logits = probabilities.log().expand(count, 4)
    picked = choose(logits, temperature=1.0, uniforms=row_uniforms(0, 0, count))
    shares = torch.bincount(picked, minlength=4) / count
    assert shares[1] == 0
    assert torch.allclose(shares, probabilities, atol=0.02)


def test_top_p_keeps_the_likeliest() -> None:
    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log().expand(2000, 4)
    uniforms = row_uniforms(1, 0, 2000)
    nucleus = choose(logits, temperature=1.0, top_p=0.7, uniforms=uniforms)
    assert set(nucleus.tolist()) == {1, 3}
    assert set(choose(logits, temperature=1.0, top_p=0.0, uniforms=uniforms).tolist()) == {1}


def test_extreme_uniforms_stay_in_the_vocabulary() -> None:
    logits = torch.tensor([[-1e9, 0.0, -1e9], [-1e9, 0.0, -1e9]])
    uniforms = torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64)
    assert choose(logits, temperature=1.0, uniforms=uniforms).tolist() == [1, 1]


def test_rows_have_numbers_of_their_own() -> None:
    assert torch.equal(row_uniforms(3, 1, 5), row_uniforms(3, 1, 9)[:5])
    assert not torch.equal(row_uniforms(3, 1, 5), row_uniforms(3, 2, 5))
    assert not torch.equal(row_uniforms(3, 1, 5), row_uniforms(4, 1, 5))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80), st.text(max_size=12))
def test_streamed_text_is_whole(text: str, context: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    before = TOKENIZER(context, add_special_tokens=False)["input_ids"]
    decoder = TextDecoder(TOKENIZER, before)
    pieces = [decoder.push(token) for token in ids]
    if "\ufffd" not in text:
        # The byte tokenizer gives one token a byte, so most pushes end inside a character.
        assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + decoder.finish() == decode_after(TOKENIZER, before, ids)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 259), max_size=120))
def test_any_bytes_stream_without_an_error(ids: list[int]) -> None:
    decoder = TextDecoder(TOKENIZER)
    text = "".join([decoder.push(token) for token in ids]) + decoder.finish()
    assert text.replace("\ufffd", "") == decode_after(TOKENIZER, [], ids).replace("\ufffd", "")


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([1.0, 0.9, 0.5, 0.0]),
    st.sampled_from([1e-3, 1e-2, 0.1]),
)
def test_what_is_settled_stays(seed: int, temperature: float, top_p: float, near: float) -> None:
    """No change of the logits within the deviation turns a choice that was called settled."""
    generator = torch.Generator().manual_seed(seed)
    rows = 16
    logits = 3 * torch.randn(rows, 12, generator=generator)
    # Some neighbours all but tie.
    logits[::2, 1] = logits[::2, 0] + near * torch.randn(rows // 2, generator=generator)
    uniforms = torch.rand(rows, generator=generator, dtype=torch.float64)
    options = {"temperature": temperature, "top_p": top_p, "uniforms": uniforms}
    sure = settled(logits, torch.full((rows,), near), **options)  # type: ignore[arg-type]
    chosen = choose(logits, **options)  # type: ignore[arg-type]
    for _ in range(40):
        signs = torch.randint(0, 3, logits.shape, generator=generator) - 1
        moved = choose(logits + near * signs, **options)  # type: ignore[arg-type]
        assert torch.equal(moved[sure], chosen[sure])


def test_clear_choices_are_settled() -> None:
    logits = torch.tensor([[5.0, 1.0, 0.0], [5.0, 4.9999, 0.0], [torch.nan, 1.0, 2.0]])
    deviation = torch.full((3,), 1e-3)
    assert settled(logits, deviation).tolist() == [True, False, True]
    uniforms = torch.tensor([0.5, 0.4985, 0.5], dtype=torch.float64)
    sampled = settled(logits, deviation, temperature=1.0, uniforms=uniforms)
    assert sampled.tolist() == [True, False, True]
    nucleus = settled(logits[:1], deviation[:1], temperature=1.0, top_p=0.0, uniforms=uniforms[:1])
    assert nucleus.tolist() == [True]
