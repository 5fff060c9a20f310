"""The tokenizer that a GGUF file carries, written as the files that transformers reads.

GGUF has the pieces, the merges or scores, the kinds of the pieces, and the *name* of the rule that
splits text before merging; the rules are llama.cpp's, which takes them from the publishers'
tokenizers (``llama-vocab.cpp``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from engrain.errors import UnsupportedModelError

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
RULES: dict[str, str | None] = {
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2,
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "smaug-bpe": LLAMA3,
    "dbrx": LLAMA3,
    # None is the rule of GPT-2, which the byte-level splitter of tokenizers has built in.
    "gpt-2": None,
    "smollm": None,
    "starcoder": None,
    "refact": None,
}
"""How text is split before merging, by the name in ``tokenizer.ggml.pre``."""
SINGLE_DIGITS = ("smollm", "starcoder", "refact")
WHOLE_PIECES = ("llama-bpe", "llama3")
"""Rules under which a piece that is in the vocabulary is taken without merging."""
COMPOSED = ("qwen2", "deepseek-r1-qwen")
"""Tokenizers whose publisher composes characters first (NFC); llama.cpp leaves that out."""
ENDS = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>")
"""Pieces that end an answer wherever they exist, as in llama.cpp."""

UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 2, 3, 4, 5
SPACE = "▁"


def write_tokenizer(metadata: Mapping[str, Any], folder: Path, source: str) -> None:
    """Write the tokenizer, its chat template, and the ids that end an answer into a folder.

    Raises:
        UnsupportedModelError: the file has no tokenizer, or one of a kind that is not known here.
    """
    pieces = metadata.get("tokenizer.ggml.tokens")
    model = metadata.get("tokenizer.ggml.model")
    if not pieces or model not in ("gpt2", "llama"):
        raise UnsupportedModelError(
            f"{source} has "
            + (f"a tokenizer of the kind {model!r}." if pieces else "no tokenizer in it."),
            remedy="Give a file with a gpt2 (byte-level) or llama (SentencePiece) tokenizer.",
        )
    kinds = metadata.get("tokenizer.ggml.token_type") or [1] * len(pieces)
    # Places that only fill the embedding up ("[PAD151665]") are no pieces of any text.
    vocabulary = {piece: place for place, piece in enumerate(pieces) if kinds[place] != UNUSED}
    build = _byte_level if model == "gpt2" else _sentence_pieces
    tokenizer = build(metadata, vocabulary, source)
    tokenizer.add_special_tokens(
        [
            AddedToken(piece, special=True, normalized=False)
            for piece, place in vocabulary.items()
            if kinds[place] in (CONTROL, UNKNOWN)
        ]
    )
    tokenizer.add_tokens(
        [
            AddedToken(piece, special=False, normalized=False)
            for piece, place in vocabulary.items()
            if kinds[place] == USER_DEFINED
        ]
    )
    roles = _roles(metadata, pieces)
    first = roles.get("bos_token")
    if first is not None and metadata.get("tokenizer.ggml.add_bos_token", model == "llama"):
        tokenizer.post_processor = processors.Sequence(
            [
                *([tokenizer.post_processor] if tokenizer.post_processor else []),
                processors.TemplateProcessing(
                    single=f"{first} $A",
                    pair=f"{first} $A {first} $B",
                    special_tokens=[(first, vocabulary[first])],
                ),
            ]
        )
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **roles,
        },
    )
    template = metadata.get("tokenizer.chat_template")
    if template:
        (folder / "chat_template.jinja").write_text(str(template), encoding="utf-8")
    _write(folder / "generation_config.json", _ends(metadata, vocabulary))


def _byte_level(metadata: Mapping[str, Any], vocabulary: dict[str, int], source: str) -> Tokenizer:
    rule = metadata.get("tokenizer.ggml.pre", "")
    if rule not in RULES:
        raise UnsupportedModelError(
            f"{source} splits text by the rule {rule!r}, which is not known here.",
            remedy=f"Known are: {', '.join(sorted(RULES))}.",
        )
    merges = [tuple(line.split(" ", 1)) for line in metadata.get("tokenizer.ggml.merges") or ()]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, ignore_merges=rule in WHOLE_PIECES)
    )
    if rule in COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = splitter(rule)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def splitter(rule: str) -> Any:
    """How a rule of :data:`RULES` splits text before merging."""
    pattern = RULES[rule]
    steps: list[Any] = []
    if rule in SINGLE_DIGITS:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None))
    return pre_tokenizers.Sequence(steps)


def _sentence_pieces(
    metadata: Mapping[str, Any], vocabulary: dict[str, int], source: str
) -> Tokenizer:
    scores = metadata.get("tokenizer.ggml.scores")
    if not scores:
        raise UnsupportedModelError(
            f"{source} has a SentencePiece tokenizer without scores.",
            remedy="Convert the model again with a current llama.cpp.",
        )
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    unknown = int(metadata.get("tokenizer.ggml.unknown_token_id", 0))
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_merges(vocabulary, scores),
            unk_token=metadata["tokenizer.ggml.tokens"][unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prefix else spaces
    )
    tail = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *tail]
    )
    return tokenizer


def _merges(vocabulary: Mapping[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """SentencePiece joins the pair whose whole has the best score: as a list of merges."""
    found: list[tuple[float, str, str]] = []
    for piece, place in vocabulary.items():
        pairs = [
            (piece[:cut], piece[cut:])
            for cut in range(1, len(piece))
            if piece[:cut] in vocabulary and piece[cut:] in vocabulary
        ]
        pairs.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        found.extend((scores[place], left, right) for left, right in pairs)
    found.sort(key=lambda item: (item[0], len(item[1]), len(item[2])), reverse=True)
    return [(left, right) for _, left, right in found]


def _roles(metadata: Mapping[str, Any], pieces: list[str]) -> dict[str, str]:
    names = {"bos": "bos", "eos": "eos", "padding": "pad", "unknown": "unk"}
    found = {}
    for stored, name in names.items():
        place = metadata.get(f"tokenizer.ggml.{stored}_token_id")
        if place is not None and 0 <= int(place) < len(pieces):
            found[f"{name}_token"] = pieces[int(place)]
    return found


def _ends(metadata: Mapping[str, Any], vocabulary: Mapping[str, int]) -> dict[str, Any]:
    stored = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    ends = {int(place) for place in stored if place is not None}
    ends.update(vocabulary[piece] for piece in ENDS if piece in vocabulary)
    found = {"eos_token_id": sorted(ends)}
    for stored_name, name in (("bos", "bos"), ("padding", "pad")):
        place = metadata.get(f"tokenizer.ggml.{stored_name}_token_id")
        if place is not None:
            found[f"{name}_token_id"] = place
    return found


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(
        json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
