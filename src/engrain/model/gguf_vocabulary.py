"""A tokenizer as the metadata of a GGUF file: the way back from :mod:`.gguf_tokenizer`.

Byte-level tokenizers are told by their pieces, their merges and the *name* of the rule that splits
text before merging; the rule is found by comparing how the tokenizer splits with every rule that is
known. Tokenizers of the SentencePiece kind are told by scores: the earlier a merge, the better.
A tokenizer that splits text in a way that has no name in llama.cpp can't be told, and is refused:
it would be read there, and give other tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gguf import GGUFValueType

from engrain.errors import ExportError
from engrain.model.gguf_tokenizer import (
    COMPOSED,
    CONTROL,
    RULES,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    WHOLE_PIECES,
    splitter,
)

NORMAL, BYTE = 1, 6
WORST = -1e6
"""The score of a piece that no merge makes."""

Pair = tuple[str, Any, GGUFValueType, GGUFValueType | None]
"""Key, value, type, and the type of an array's values."""
_STRING, _ARRAY = GGUFValueType.STRING, GGUFValueType.ARRAY


def vocabulary(tokenizer: Any, rows: int, stop_ids: Sequence[int]) -> list[Pair]:
    """The metadata of a tokenizer for an embedding of so many rows.

    Raises:
        ExportError: llama.cpp has no name for the way in which it splits text.
    """
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    model = core["model"]
    if model.get("type") != "BPE":
        raise _unknown(f"is of the kind {model.get('type')!r}")
    pieces, kinds = _pieces(core, rows)
    pairs: list[Pair] = []
    if model.get("byte_fallback"):
        pairs += _sentence_pieces(core, pieces, kinds)
    else:
        pairs += [
            ("tokenizer.ggml.model", "gpt2", _STRING, None),
            ("tokenizer.ggml.pre", _rule(core), _STRING, None),
            ("tokenizer.ggml.merges", [_merge(m) for m in model["merges"]], _ARRAY, _STRING),
        ]
    pairs += [
        ("tokenizer.ggml.tokens", pieces, _ARRAY, _STRING),
        ("tokenizer.ggml.token_type", kinds, _ARRAY, GGUFValueType.INT32),
    ]
    return pairs + list(_roles(tokenizer, stop_ids))


def _pieces(core: Mapping[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """The piece and the kind of every row; rows of no piece only fill the embedding up."""
    found: dict[int, tuple[str, int]] = {}
    unknown = core["model"].get("unk_token")
    for piece, place in core["model"]["vocab"].items():
        is_byte = len(piece) == 6 and piece[:3] == "<0x" and core["model"].get("byte_fallback")
        found[place] = (piece, UNKNOWN if piece == unknown else BYTE if is_byte else NORMAL)
    for token in core["added_tokens"]:
        kind = CONTROL if token["special"] else USER_DEFINED
        if token["content"] != unknown:
            found[token["id"]] = (token["content"], kind)
    filled = [found.get(row, (f"[PAD{row}]", UNUSED)) for row in range(rows)]
    return [piece for piece, _ in filled], [kind for _, kind in filled]


def _rule(core: Mapping[str, Any]) -> str:
    """The name of the rule by which a byte-level tokenizer splits."""
    merges, normal = core["model"]["merges"], core.get("normalizer")
    if not merges:
        return "gpt-2"  # every byte stays alone, however the text was split
    wanted = list(_steps(core.get("pre_tokenizer")))
    whole = bool(core["model"].get("ignore_merges"))
    for rule in RULES:
        composed = {"type": "NFC"} if rule in COMPOSED else None
        steps = list(_steps(json.loads(_as_json(splitter(rule)))))
        if steps == wanted and whole == (rule in WHOLE_PIECES) and normal in (None, composed):
            return rule
    raise _unknown("splits text by a rule that has no name there")


def _as_json(split: Any) -> str:
    from tokenizers import Tokenizer, models

    empty = Tokenizer(models.BPE())
    empty.pre_tokenizer = split
    return json.dumps(json.loads(empty.to_str())["pre_tokenizer"])


def _steps(split: Mapping[str, Any] | None) -> Iterator[tuple[Any, ...]]:
    """What decides how text is split, without what only says where pieces lie."""
    if split is None:
        return
    kind = split["type"]
    if kind == "Sequence":
        for step in split["pretokenizers"]:
            yield from _steps(step)
    elif kind == "Split":
        yield kind, *split["pattern"].values(), split["behavior"], split["invert"]
    elif kind == "ByteLevel":
        # Spelled out where it is the default, so that a step which splits nothing equals none.
        yield kind, split["add_prefix_space"], split.get("use_regex", True)
    else:
        yield kind, *(split[key] for key in sorted(split) if key != "type")


def _sentence_pieces(
    core: Mapping[str, Any], pieces: Sequence[str], kinds: Sequence[int]
) -> Iterator[Pair]:
    scores = dict.fromkeys(pieces, WORST)
    for rank, merge in reversed(list(enumerate(core["model"]["merges"]))):
        scores["".join(_merge(merge).split(" ", 1))] = -float(rank)
    for piece, kind in zip(pieces, kinds, strict=True):
        if kind in (CONTROL, UNKNOWN, BYTE, USER_DEFINED):
            scores[piece] = 0.0
    yield "tokenizer.ggml.model", "llama", _STRING, None
    yield "tokenizer.ggml.pre", "default", _STRING, None
    yield (
        "tokenizer.ggml.scores",
        [scores[piece] for piece in pieces],
        _ARRAY,
        GGUFValueType.FLOAT32,
    )
    yield "tokenizer.ggml.add_space_prefix", _begins_with_space(core), GGUFValueType.BOOL, None


def _begins_with_space(core: Mapping[str, Any]) -> bool:
    """Whether a space is put before a text; refuses what does more than that with spaces."""
    normal, split = core.get("normalizer") or {}, core.get("pre_tokenizer")
    steps = normal["normalizers"] if normal.get("type") == "Sequence" else [normal]
    steps = [step for step in steps if step]
    prepended = any(s == {"type": "Prepend", "prepend": SPACE} for s in steps)
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    plain = all(s["type"] == "Prepend" or s == replaced for s in steps)
    if plain and steps and split is None:
        return prepended
    if not steps and split and split["type"] == "Metaspace" and not split.get("split"):
        return str(split.get("prepend_scheme")) != "never"
    raise _unknown("prepares text in a way that has no name there")


def _merge(merge: Any) -> str:
    """A merge as GGUF writes it; tokenizers has it as a pair or, in older files, as text."""
    return merge if isinstance(merge, str) else " ".join(merge)


def _roles(tokenizer: Any, stop_ids: Sequence[int]) -> Iterator[Pair]:
    uint, bools = GGUFValueType.UINT32, GGUFValueType.BOOL
    names = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    for name, stored in names.items():
        place = getattr(tokenizer, f"{name}_token_id")
        if place is not None:
            yield f"tokenizer.ggml.{stored}_token_id", int(place), uint, None
    others = [stop for stop in stop_ids if stop != tokenizer.eos_token_id]
    if others:
        yield "tokenizer.ggml.eot_token_id", int(others[0]), uint, None
    encoded = tokenizer("a")["input_ids"]
    for name, place in (("bos", 0), ("eos", -1)):
        role = getattr(tokenizer, f"{name}_token_id")
        added = role is not None and encoded[place] == role
        yield f"tokenizer.ggml.add_{name}_token", added, bools, None
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template:
        yield "tokenizer.chat_template", str(template), _STRING, None


def _unknown(what: str) -> ExportError:
    return ExportError(
        f"The model's tokenizer {what}: llama.cpp would read it and give other tokens.",
        remedy="Write --format transformers, or begin a home with the model's own GGUF file: "
        "its tokenizer is copied.",
    )
