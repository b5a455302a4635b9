"""rd/data/text.py against a plain normaliser without offsets, and offsets against the original text."""

import json
import random
import re
from pathlib import Path

import pytest
from nltk.tokenize import NLTKWordTokenizer

from rd.data.text import (
    _SIMPLE,
    CONTRACTIONS,
    Vocabulary,
    Word,
    _tokens,
    normalise,
    spans_from_tags,
    tags_from_spans,
    tokenize,
    vocabulary,
    words,
)
from rd.errors import UserError

MINI = Path(__file__).parents[1] / "rd" / "data" / "mini"
TOKENIZER = NLTKWordTokenizer()


def plain(text: str) -> list[str]:
    """The protocol in words: no offsets, one step after the other."""
    text = text.lower().replace('"', "")
    for short, long in CONTRACTIONS:
        text = text.replace(short, long)
    return [token for piece in re.split(r"(?<=[.!?])\s+", text) for token in TOKENIZER.tokenize(piece)]


def mini_turns() -> list[tuple[str, list[list[int]]]]:
    """(text, reasons) of every turn of the bundled corpus."""
    turns = []
    for split in ("train", "valid", "test"):
        rows = [line.split(",") for line in (MINI / f"{split}.csv").read_text(encoding="utf-8").splitlines()[1:]]
        labels = {}
        for line in (MINI / f"{split}.labels.jsonl").read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            labels |= {(entry["conv_id"], turn["utterance_idx"]): turn.get("reasons", []) for turn in entry["turns"]}
        turns += [(row[5].replace("_comma_", ","), labels.get((row[0], int(row[1])), [])) for row in rows]
    return turns


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("I like that. It's mine!", "i like that . it is mine !"),  # without the sentence break: "that."
        ("We lost.It hurt", "we lost.it hurt"),  # no white space, no break
        ("I can't, I won't, I hadn't.", "i can not , i will not , i had n't ."),  # n't of the last is no pair
        ('She said "go home" twice...', "she said go home twice ..."),
        ("Said I'd win?! YES!", "said i would win ? ! yes !"),
        ("Hawaii'm", "hawaii am"),  # substrings, wherever they stand
        ("There're two, they're $5.", "there are two , they are $ 5 ."),
        ("", ""),
    ],
)
def test_the_form_on_sentences_made_by_hand(text: str, form: str) -> None:
    assert normalise(text) == form


def test_there_are_23_contractions() -> None:
    assert len(dict(CONTRACTIONS)) == len(CONTRACTIONS) == 23


def test_words_equal_the_plain_form_on_random_text() -> None:
    parts = [
        *"a.!?\"'()[]$%&@#,;: \t\u2028\x1c\xa0",
        "...",
        "''",
        "``",
        "--",
        "cannot",
        "gonna",
        "'tis",
        "N'T",
        "İ",
        "ΑΣ",
    ]
    parts += ["“", "’", "it's", "CAN'T", "won't", "I'd", "there're", "5,000", "b.", " ", " ", " "]
    rng = random.Random(0)
    for _ in range(2000):
        text = "".join(rng.choice(parts) for _ in range(rng.randint(0, 14)))
        found = words(text)
        assert [word.text for word in found] == plain(text) == tokenize(text)
        assert all(0 <= word.start < word.end <= len(text) for word in found)
        assert all(a.start <= b.start and a.end <= b.end for a, b in zip(found, found[1:], strict=False))


def test_offsets_give_back_the_word_or_its_contraction() -> None:
    text = "Oh \"DEAR\", İt can't be.  I'm  lost..."
    spans = [(word.text, text[word.start : word.end]) for word in words(text)]
    assert spans == [
        ("oh", "Oh"), ("dear", "DEAR"), (",", ","), ("i̇t", "İt"), ("can", "can't"), ("not", "can't"), ("be", "be"),
        (".", "."), ("i", "I'm"), ("am", "I'm"), ("lost", "lost"), ("...", "..."),
    ]  # fmt: skip


def test_every_offset_of_the_mini_corpus() -> None:
    turns = mini_turns()
    assert len(turns) > 3000
    for text, reasons in turns:
        found = words(text)
        assert [word.text for word in found] == plain(text)
        form = " ".join(word.text for word in found)
        inner_stop = any(token.endswith(".") and token.strip(".") for token in form.split())  # "a.m. ,"
        assert inner_stop or normalise(form) == form
        for word in found:
            there = text[word.start : word.end].lower()
            short = any(pair[0] in there for pair in CONTRACTIONS)  # "biscuit's" holds one: biscuit is
            assert there.replace('"', "") == word.text or (short and word.text in plain(there))
        covered = spans_from_tags(found, tags_from_spans(found, reasons))
        for start, end in reasons:  # a dropped quotation mark at an edge belongs to no word
            edges = start + (text[start] == '"'), end - (text[end - 1] == '"')
            assert any(a <= edges[0] and edges[1] <= b for a, b in covered)
        assert all(a < b for (_, a), (b, _) in zip(covered, covered[1:], strict=False))


def test_tags_and_spans_by_hand() -> None:
    found = words("I lost my job. Help")  # i lost my job . help
    assert tags_from_spans(found, [(2, 13)]) == [0, 1, 1, 1, 0, 0]
    assert tags_from_spans(found, [(0, 1), (12, 13)]) == [1, 0, 0, 1, 0, 0]  # a part of a word is enough
    assert tags_from_spans(found, [(1, 2)]) == [0] * 6  # white space alone is no word
    assert spans_from_tags(found, [1, 0, 1, 1, 0, 1]) == [(0, 1), (7, 13), (15, 19)]
    assert spans_from_tags([Word("can", 0, 5), Word("not", 0, 5)], [1, 1]) == [(0, 5)]
    with pytest.raises(ValueError):
        spans_from_tags(found, [1])


def test_vocabulary_order_ids_and_unknown_words(tmp_path: Path) -> None:
    lists = [["b", "a", "c"], ["c", "b", "rare"], ["c"]]
    vocab = vocabulary(lists, min_count=1)
    assert vocab.words == ["<pad>", "<unk>", "<s>", "</s>", "<ctx>", "c", "b", "a", "rare"]
    assert (vocab.PAD, vocab.UNK, vocab.BOS, vocab.EOS, vocab.CTX) == (0, 1, 2, 3, 4)
    small = Vocabulary.build(lists, min_count=2)
    assert small.words[5:] == ["c", "b"] and len(small) == 7 and "a" not in small
    assert small.encode(["c", "a"]) == [5, Vocabulary.UNK] and small.index("b") == 6
    assert small.unk_rate(lists) == 2 / 7
    assert small.decode([2, 5, 7, 6, 3, 5], extra=["a"]) == ["c", "a", "b"]
    small.save(tmp_path / "words.json")
    assert Vocabulary.load(tmp_path / "words.json").words == small.words
    with pytest.raises(ValueError):
        small.unk_rate([[]])


@pytest.mark.parametrize("content", [None, "", "{}", "3", '["a"]', "[[]]"])
def test_a_bad_vocabulary_file_is_the_users_mistake(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "words.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"words\.json"):
        Vocabulary.load(path)


def test_simple_pieces_are_split_as_nltk_splits_them() -> None:
    rng = random.Random(0)
    parts = ["a", "so", "3", "10", "cannot", "gonna", "wanna", "gimme", "lemme", "gotta", "canny", " ", "  ", ", ", ","]
    seen = 0
    for _ in range(3000):
        piece = "".join(rng.choices(parts, k=rng.randint(0, 9))) + rng.choice(["", ".", "?", "!", " .", ".."])
        seen += bool(_SIMPLE.fullmatch(piece))
        assert _tokens(piece) == TOKENIZER.tokenize(piece), piece
    assert 1000 < seen < 3000
