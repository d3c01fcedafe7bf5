"""Texts for language models: files of the user's, and the documentation that Python ships."""

import glob
import json
from pathlib import Path
from typing import Any

import numpy as np

from onecycle_sweeps.fingerprints import walk
from onecycle_sweeps.samples import Text
from onecycle_sweeps.validation import one_of, require, whole


def text(path: str, context: int = 64, by: str = "characters", tokenizer: str | None = None) -> Text:
    """The text of a file, of the files that match a pattern such as `books/*.txt`, or of a folder's .txt files.

    Tokens are characters, bytes, or those of a `tokenizer`, a JSON file of the library tokenizers.
    Raises ValueError, in one line, for a file that is missing, no text in UTF-8, or no tokenizer.
    """
    return _of(read(path), context, by, tokenizer)


def python_docs(context: int = 64, by: str = "characters", tokenizer: str | None = None) -> Text:
    """Python's own help texts (pydoc_data.topics), a third of a megabyte of English that needs no download.

    Topics repeat each other's paragraphs, so that much of what is held out would be in the training text as well: each
    paragraph is there once.
    """
    from pydoc_data.topics import topics

    paragraphs = (paragraph for name in sorted(topics) for paragraph in topics[name].split("\n\n"))
    return _of("\n\n".join({one.strip(): one for one in paragraphs}.values()), context, by, tokenizer)


def read(path: str) -> str:
    """The files that a path or a pattern names, in the order of their names, with an empty line between them."""
    place = Path(path).expanduser()
    if place.is_dir():
        # Without hidden files, such as the copies that Jupyter keeps of what is edited.
        found = sorted(place / name for name in walk(place)[1] if name.lower().endswith(".txt"))
    else:
        # The name of a file may look like a pattern.
        found = [place] if place.is_file() else sorted(map(Path, glob.glob(str(place))))
    if not found:
        where = place.absolute()
        raise ValueError(f"data.path must name a text file or a folder of .txt files; there is none at {where}")
    texts = []
    for file in found:
        try:
            # utf-8-sig leaves out a byte order mark, with which a file may begin.
            texts.append(file.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} cannot be read as text in UTF-8: {error}") from error
    return "\n\n".join(texts)


def _of(content: str, context: int, by: str, tokenizer: str | None) -> Text:
    require("context", context, whole(2))
    if not content:
        raise ValueError("data.path must name a text, and what it names is empty")
    require("by", by, one_of("characters", "bytes"))
    if tokenizer is not None:
        if by != "characters":
            raise ValueError(f"by={by} and a tokenizer exclude each other: leave one of them out")
        return _tokenized(content, context, tokenizer)
    if by == "bytes":
        tokens = np.frombuffer(content.encode(), np.uint8)
        return Text(tokens, np.ones(len(tokens), np.uint8), 256, context)
    points = np.frombuffer(content.encode("utf-32-le"), np.uint32)
    characters, tokens = np.unique(points, return_inverse=True)
    # The bytes of a code point in UTF-8 (RFC 3629).
    sizes = 1 + sum((points >= bound).astype(np.uint8) for bound in (0x80, 0x800, 0x10000))
    return Text(tokens.astype(np.int32), np.asarray(sizes, np.uint8), len(characters), context)


def _tokenized(content: str, context: int, tokenizer: str) -> Text:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ValueError("data.tokenizer needs the package tokenizers: pip install tokenizers") from error
    try:
        codec = Tokenizer.from_file(str(Path(tokenizer).expanduser()))
    except Exception as error:  # the library raises Exception itself
        raise ValueError(f"data.tokenizer={tokenizer} cannot be read as a file of tokenizers: {error}") from error
    codec.no_truncation()
    codec.no_padding()
    encoded = codec.encode(content, add_special_tokens=False)
    ids, offsets = np.array(encoded.ids, np.int32), np.array(encoded.offsets, np.int64).reshape(-1, 2)
    starts = np.append(offsets[:, 0], len(content))
    points = np.frombuffer(content.encode("utf-32-le"), np.uint32)
    of_characters = 1 + sum((points >= bound).astype(np.int64) for bound in (0x80, 0x800, 0x10000))
    ends = np.concatenate([[0], np.cumsum(of_characters)])
    # A token stands for the text up to where the next one begins, so that spaces between tokens count.
    sizes = np.diff(ends[np.maximum.accumulate(starts)])
    lost = _lost(points, offsets[ids != _unknown(codec)])
    doubt = f"the tokenizer has no tokens for {lost:,} of {len(points):,} characters, so bits per byte leave them out"
    return Text(ids, sizes, codec.get_vocab_size(), context, (doubt,) if lost else ())


def _unknown(codec: Any) -> int:
    """The token of a tokenizer that stands for whatever it has none for; -1 if there is none."""
    model = json.loads(codec.to_str())["model"]
    found = model.get("unk_id")
    if found is None and model.get("unk_token"):
        found = codec.token_to_id(model["unk_token"])
    return -1 if found is None else found


def _lost(points: np.ndarray, offsets: np.ndarray) -> int:
    """How many characters, given by their code points, lie in no token but are no spaces."""
    changes = np.zeros(len(points) + 1, np.int64)
    np.add.at(changes, offsets[:, 0], 1)
    np.add.at(changes, offsets[:, 1], -1)
    found, counts = np.unique(points[np.cumsum(changes[:-1]) == 0], return_counts=True)
    return sum(int(count) for point, count in zip(found, counts, strict=True) if not chr(point).isspace())
