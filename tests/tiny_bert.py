"""A random BERT with a word-piece vocabulary of letters and some words: for tests, no download."""

import string

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = "i am so sad happy my dog cat died won the race today you are that is great sorry to hear oh no".split()


def random_bert(width: int = 16, layers: int = 2, seed: int = 0):
    """(tokenizer, BertModel) with every letter as a piece, so that any word has subwords."""
    pieces = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    listed = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *pieces, *(f"##{p}" for p in pieces)]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(listed))}
    core = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=128,
        attn_implementation="eager",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return tokenizer, BertModel(config).eval()


DEEP = "[" * 100_000 + "]" * 100_000
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
# (file of a model folder, what stands in it instead)
BROKEN = [(name, text) for name in FILES[:3] for text in ("", "null", "[]", "{}}", DEEP)]
BROKEN += [("config.json", '{"model_type": "bert", "hidden_size": "wide"}'), ("config.json", '{"model_type": 7}')]
BROKEN += [("tokenizer.json", "{}"), ("tokenizer_config.json", '{"tokenizer_class": 7}')]
BROKEN += [(FILES[3], text) for text in ("", "\x08" + "\x00" * 7, "\xff" * 8 + "{}", "no weights at all" * 9)]
