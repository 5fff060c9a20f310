"""Reading an account's export: seconds, peak memory, and what becomes of damage.

A synthetic export has the layout of ChatGPT's: files of a hundred conversations each, a tree of
messages for each conversation with an answer that was left, notes of the platform, thoughts, calls
of tools and attachments beside what was said. One conversation is damaged in the middle. It is read
in a process of its own: whole, as a zip and unpacked, and by ``survey``, on which ``engrain learn``
builds. What was said is known, so that it is checked that all of it, and nothing else, was read.

    python -m benchmarks.read_export [--conversations 2000 --megabytes 200]
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import about, options, print_table, write_json

A_FILE = 100
"""Conversations of one file of the export."""
BEGUN = 1_704_067_200.0
"""The first day of the export: 2024-01-01."""
BARS = {"seconds": 60.0, "peak_bytes": 1e9}

CHILD = """
import json, resource, sys, time
from pathlib import Path
way, path = sys.argv[1:]
began = time.perf_counter()
if way == "read":
    from engrain.data.sources import Brought, read
    said, talks, skips = 0, 0, []
    import hashlib
    digest = hashlib.sha256()
    for one in read(Path(path)):
        if isinstance(one, Brought):
            talks += 1
            for message in one.conversation.messages:
                if message.role == "user":
                    said += 1
                    digest.update(message.content.encode() + b"\\0")
        else:
            skips.append(str(one))
    result = {"conversations": talks, "said": said, "digest": digest.hexdigest(), "skips": skips}
else:
    from engrain.lesson.brought import survey
    with survey(Path(path)) as found:
        result = {"conversations": len(found.entries), "days": len(found.lots)}
result["seconds"] = time.perf_counter() - began
result["cpu_seconds"] = time.process_time()
result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps(result))
"""


def vocabulary(seed: int) -> list[str]:
    """Words of no language."""
    rng = random.Random(f"words:{seed}")
    return ["".join(rng.choices("abdeiklmnorstuéß", k=rng.randint(2, 9))) for _ in range(5000)]


WORDS = vocabulary(0)
ENDS = (".", "!\n\n", ' "so".', "\n```\ncode {[\n```")
"""Ends of a text, with the marks that JSON writes by other characters."""


def sentence(rng: random.Random, words: int) -> str:
    """A text of so many words."""
    return " ".join(rng.choices(WORDS, k=words)) + rng.choice(ENDS)


def conversation(number: int, characters: int, seed: int) -> tuple[dict[str, Any], list[str]]:
    """A conversation in the layout of the export, and what the user said on its branch."""
    rng = random.Random(f"export:{seed}:{number}")
    began = BEGUN + 86_400 * (number // 6) + 60 * (number % 6)
    mapping: dict[str, Any] = {
        "root": {"id": "root", "message": None, "parent": None, "children": []}
    }
    said: list[str] = []
    length, last, count = 0, "root", 0

    def add(parent: str, role: str, content: dict[str, Any], **more: Any) -> str:
        nonlocal count, length
        count += 1
        name = f"{number:08x}-{count:04x}-4000-8000-{rng.getrandbits(48):012x}"
        message = {
            "id": name,
            "author": {"role": role, "name": None, "metadata": {}},
            "create_time": began + count,
            "update_time": None,
            "content": content,
            "status": "finished_successfully",
            "end_turn": True,
            "weight": 1.0,
            "metadata": {"request_id": name, "model_slug": "gpt-5", **more.pop("metadata", {})},
            "recipient": "all",
            "channel": None,
            **more,
        }
        mapping[name] = {"id": name, "message": message, "parent": parent, "children": []}
        mapping[parent]["children"].append(name)
        length += len(json.dumps(message))
        return name

    def text(words: str) -> dict[str, Any]:
        return {"content_type": "text", "parts": [words]}

    hidden = {"is_visually_hidden_from_conversation": True}
    last = add(last, "system", text(""), metadata=hidden)
    about_me = {"content_type": "user_editable_context", "user_profile": sentence(rng, 30)}
    last = add(last, "user", about_me, metadata={**hidden, "is_user_system_message": True})
    while length < characters:
        words = sentence(rng, rng.randint(5, 60))
        said.append(words)
        last = add(last, "user", text(words), metadata={"attachments": []})
        add(last, "assistant", text(sentence(rng, 100)))  # and left: it was answered again
        thoughts = [{"summary": sentence(rng, 5), "content": sentence(rng, 40)}]
        last = add(last, "assistant", {"content_type": "thoughts", "thoughts": thoughts})
        call = {"content_type": "code", "text": f'{{"q": "{rng.random()}"}}'}
        last = add(last, "assistant", call, recipient="web.run")
        last = add(last, "tool", text(sentence(rng, 60)))
        last = add(last, "assistant", text(sentence(rng, rng.randint(40, 400))))
    record = {
        "title": sentence(rng, 4),
        "create_time": began,
        "update_time": began + count,
        "mapping": mapping,
        "moderation_results": [],
        "current_node": last,
        "conversation_id": f"{number:08x}-0000-4000-8000-000000000000",
        "is_archived": False,
        "default_model_slug": "gpt-5",
    }
    return record, said


def write_export(
    folder: Path, conversations: int, characters: int, seed: int
) -> tuple[Path, dict[str, Any]]:
    """An export as a zip; gives its path and what is in it."""
    digest, said, size = hashlib.sha256(), 0, 0
    damaged = conversations // 2
    path = folder / "export.zip"

    def files() -> Iterator[tuple[str, list[str]]]:
        nonlocal said
        texts: list[str] = []
        for number in range(conversations):
            record, words = conversation(number, characters // conversations, seed)
            whole = json.dumps(record)
            if number == damaged:
                # As if a block of the file had been lost.
                whole = whole[: len(whole) // 3] + whole[len(whole) // 2 :]
            else:
                for line in words:
                    digest.update(line.encode() + b"\0")
                said += len(words)
            texts.append(whole)
            if len(texts) == A_FILE or number == conversations - 1:
                yield f"conversations-{number // A_FILE:03}.json", texts
                texts = []

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, texts in files():
            raw = ("[" + ", ".join(texts) + "]").encode()
            size += len(raw)
            archive.writestr(name, raw)
        archive.writestr("user.json", '{"id": "user-1", "email": "a@b.example"}')
        archive.writestr("chat.html", "<html></html>")
    return path, {
        "conversations": conversations - 1,
        "damaged": 1,
        "said": said,
        "digest": digest.hexdigest(),
        "bytes": size,
        "zip_bytes": path.stat().st_size,
    }


def measured(way: str, path: Path) -> dict[str, Any]:
    """What one way of reading gave and took, in a process of its own."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, way, str(path)], check=True, capture_output=True, text=True
    )
    return {**json.loads(done.stdout), "process_seconds": time.perf_counter() - began}


def main(argv: list[str] | None = None) -> int:
    """Make an export, read it three ways, write the result; 1 if a bar is missed."""
    parser = options(__doc__, "read_export")
    parser.add_argument("--conversations", type=int, default=2000)
    parser.add_argument("--megabytes", type=float, default=200.0)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        path, made = write_export(
            Path(folder), args.conversations, int(args.megabytes * 1e6), args.seed
        )
        unpacked = Path(folder) / "unpacked"
        with zipfile.ZipFile(path) as archive:
            archive.extractall(unpacked)
        ways = {
            "zip": measured("read", path),
            "folder": measured("read", unpacked),
            "survey": measured("survey", path),
        }
    for name in ("zip", "folder"):
        found = ways[name]
        found["whole"] = all(found[key] == made[key] for key in ("conversations", "said", "digest"))
    passed = all(
        found[bar] <= most for found in ways.values() for bar, most in BARS.items()
    ) and all(found.get("whole", True) for found in ways.values())
    write_json(args.json, about(args, made=made, ways=ways, bars=BARS, passed=passed))
    rows = [
        (
            name,
            f["conversations"],
            f"{f['seconds']:.1f} s",
            f"{f['cpu_seconds']:.1f} s",
            f"{f['peak_bytes'] / 1e6:.0f} MB",
        )
        for name, f in ways.items()
    ]
    head = ("way", "conversations", "time", "of the processor", "peak")
    print_table("Reading an export", head, rows)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
