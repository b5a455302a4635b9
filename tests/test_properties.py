"""What holds for every input, looked for by Hypothesis: the same inputs in each run."""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rd.annotation.client import _json_object
from rd.annotation.llm import _merged, locate
from rd.config import Config, from_dict
from rd.data.batch import _latest
from rd.data.jsonl import DEEPEST, parse, read_jsonl, write_jsonl
from rd.data.records import MOST_LETTERS, Dialogue, Turn, cut, cut_text
from rd.data.text import Vocabulary, _tokenizer, _tokens, spans_from_tags, tags_from_spans, words
from rd.errors import LONGEST, UserError, visible
from rd.knowledge.files import read_conceptnet
from rd.labels import EMOTIONS, INTENTS
from rd.settings import settings as run_settings

settings.register_profile("rd", derandomize=True, deadline=None, max_examples=60, database=None)
settings.load_profile("rd")

TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
# What the tokenizer turns on: quotes, stops, contractions, and letters that change their number in lower case.
SPEECH = st.lists(
    st.sampled_from(
        [
            "can't",
            "it's",
            "''",
            "``",
            '"',
            "'",
            ".",
            "...",
            "?",
            ",",
            " ",
            "a",
            "İ",
            "ß",
            "Σ",
            "--",
            "(",
            "\u2028",
            "1,0",
        ]
    ),
    max_size=20,
).map("".join)
SIMPLE = st.text("abz09 ,.?!", max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=3), inside, max_size=3),
    max_leaves=8,
)


@given(TEXT | SPEECH)
def test_every_word_knows_where_it_stands(text: str) -> None:
    found = words(text)
    assert all(0 <= word.start < word.end <= len(text) for word in found)
    assert all(a.start <= b.start and a.end <= b.end for a, b in zip(found, found[1:]))
    assert all(word.text and not any(sign.isspace() for sign in word.text) for word in found)
    tags = [i % 3 > 0 for i in range(len(found))]
    assert (
        tags_from_spans(found, spans_from_tags(found, tags)) >= tags
    )  # two words of one contraction share their place


@settings(max_examples=300)
@given(SIMPLE | SPEECH | TEXT)
def test_the_short_way_through_the_tokenizer_is_the_long_one(text: str) -> None:
    piece = text.lower().replace('"', "")
    assert _tokens(piece) == _tokenizer().tokenize(piece)


@given(st.lists(st.lists(TEXT, max_size=5), max_size=4), st.integers(1, 3))
def test_a_vocabulary_gives_back_what_it_knows(tmp_path_factory, token_lists, least: int) -> None:
    vocab = Vocabulary.build(token_lists, least)
    counted = [token for tokens in token_lists for token in tokens]
    for token in counted:
        assert (token in vocab) == (counted.count(token) >= least) or token in vocab.words[:5]
        assert 0 <= vocab.index(token) < len(vocab)
    known = [token for token in counted if vocab.index(token) >= 5]
    assert vocab.decode(vocab.encode(known)) == known
    file = tmp_path_factory.getbasetemp() / "vocabulary.json"
    vocab.save(file)
    assert Vocabulary.load(file).words == vocab.words


TURN = TEXT.filter(str.strip)
DIALOGUE = st.builds(
    lambda emotion, prompt, texts, intent: Dialogue(
        "", emotion, prompt, tuple(Turn(text, None, intent if i % 2 else None) for i, text in enumerate(texts))
    ),
    st.sampled_from([None, *EMOTIONS]),
    TEXT,
    st.lists(TURN, min_size=1, max_size=4),
    st.sampled_from([None, *INTENTS]),
)


@given(st.lists(DIALOGUE, min_size=1, max_size=3))
def test_dialogues_read_back_as_they_were_written(tmp_path_factory, given_ones) -> None:
    named = [Dialogue(f"d{i}", d.emotion, d.prompt, d.turns) for i, d in enumerate(given_ones)]
    file = tmp_path_factory.getbasetemp() / "dialogues.jsonl"
    write_jsonl(file, named)
    assert read_jsonl(file)[0] == named


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_dialogues_or_one_clear_line(tmp_path_factory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    file.write_bytes(data)
    with pytest.raises(UserError) as refused:
        read_jsonl(file)
    assert len(str(refused.value).splitlines()) == 1 and len(str(refused.value)) < LONGEST + 10


@given(st.text(), st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=6))
def test_a_reply_is_an_object_or_a_value_error(text: str, spans) -> None:
    try:
        assert json.dumps(_json_object(text)) in text or "{" in text
    except ValueError:
        pass
    merged = _merged([(start, start + size) for start, size in spans])
    inside = {i for start, size in spans for i in range(start, start + size)}
    assert {i for start, end in merged for i in range(start, end)} == inside
    assert all(a[1] <= b[0] for a, b in zip(merged, merged[1:]))


@given(st.lists(st.sampled_from(["so", "sad", "Dog", "it's", "a.b", "(x)", "é"]), min_size=1, max_size=6), st.data())
def test_a_phrase_is_found_where_it_stands(tokens: list[str], data) -> None:
    first = data.draw(st.integers(0, len(tokens) - 1))
    last = data.draw(st.integers(first + 1, len(tokens)))
    text = data.draw(st.sampled_from([" ", "  ", "\n"])).join(tokens)
    start, end = locate(text, " ".join(tokens[first:last]).upper().lower())
    assert text[start:end].lower().split() == [token.lower() for token in tokens[first:last]]
    assert locate(text, "nowhere") is None and locate(text, " ") is None


@pytest.mark.parametrize("deep", [DEEPEST + 1, 300, 900, 990, 5000])
def test_a_deep_nest_is_no_crash(tmp_path: Path, deep: int) -> None:
    """Around Python's own limit as well: what its reader lets through, `repr` in an error might not."""
    nest = "[" * deep + "]" * deep
    with pytest.raises(ValueError, match="deep"):
        parse(nest)
    file = tmp_path / "d.jsonl"
    file.write_text(f'{{"id": "a", "turns": [{{"text": "x", "reasons": [{nest}]}}]}}\n')
    with pytest.raises(UserError, match="deep"):
        read_jsonl(file)
    with pytest.raises(ValueError):
        _json_object('{"a":' * 5000)
    with pytest.raises(UserError):
        run_settings("mini", changes=[f"model.width={nest}"])
    assert parse("[" * DEEPEST + "]" * DEEPEST)


@pytest.mark.parametrize("data", ["\ufeff", "\u2028\n\u00a0", "\ufeff\n\n"])
def test_a_file_of_blanks_is_empty(tmp_path: Path, data: str) -> None:
    (tmp_path / "x").write_text(data)
    with pytest.raises(UserError, match="empty"):
        read_jsonl(tmp_path / "x")


@pytest.mark.parametrize("key", ["id", "prompt"])
def test_half_a_character_is_refused_wherever_it_stands(tmp_path: Path, key: str) -> None:
    row = {"id": "a", "prompt": "b", "turns": ["c"]} | {key: "\ud800"}
    (tmp_path / "x").write_text(json.dumps(row))
    with pytest.raises(UserError, match=f'x:1: "{key}" holds half a character'):
        read_jsonl(tmp_path / "x")


@pytest.mark.parametrize("value", ["1" + "0" * 400, "9" * 5000, "1e999", "nan", "-1", "0", "true"])
def test_a_number_that_no_width_can_have(value: str) -> None:
    with pytest.raises(UserError, match="like the preset"):
        run_settings("mini", changes=[f"model.width={value}"])
    with pytest.raises(UserError, match="like the preset"):
        run_settings("mini", changes=[f"model.heads={value}"])


@pytest.mark.parametrize("value", ["1" + "0" * 400, "1e999", "nan", "-0.1", "true"])
def test_a_number_that_no_rate_can_have(value: str) -> None:
    with pytest.raises(UserError, match="give a float like the preset"):
        run_settings("mini", changes=[f"train.lr={value}"])


def test_an_endless_weight_is_refused_in_its_line(tmp_path: Path) -> None:
    for weight in ("1" + "0" * 400, "NaN"):
        line = f'/a\t/r/IsA\t/c/en/dog\t/c/en/cat\t{{"weight": {weight}}}\n'
        (tmp_path / "net").write_text(line)
        with pytest.raises(UserError, match="net:1"):
            read_conceptnet(tmp_path / "net", {}, 2, ["dog", "cat"])


@given(JSON)
def test_settings_are_rebuilt_or_refused(value) -> None:
    for described in (value, {"model": value}, {"model": {"width": value}}):
        try:
            config = from_dict(Config, described)
            assert isinstance(config.model.width, int) and config.model.width >= 0
        except (KeyError, TypeError, ValueError):
            pass


@given(st.text())
def test_what_is_visible_is_one_harmless_line(text: str) -> None:
    shown = visible(text)
    assert len(shown.splitlines()) <= 1 and not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    shown.encode()
    assert visible(shown) == shown and (shown == text or not text.isprintable())
    assert len(str(UserError(text * 400)).splitlines()) <= 1 and len(str(UserError(text * 400))) <= LONGEST + 5


def test_joined_emoji_and_letters_of_all_scripts_stay() -> None:
    for text in ("👩\u200d👩\u200d👧", "کتاب\u200cها", "日本語\u3000です", "naïve\u00a0café"):
        assert visible(text) == text
    assert visible("\x1b[2J\u202e\n") == "\\x1b[2J\\u202e\\n"


@given(st.integers(0, 3 * MOST_LETTERS), st.sampled_from(["a", "ab ", " ", "é\n"]))
def test_a_cut_text_is_the_beginning_and_has_words(size: int, sign: str) -> None:
    text = sign * size + " end"
    kept = cut_text("x:1", text)
    assert kept in text and len(kept) <= MOST_LETTERS and kept.strip()
    assert kept == text or len(text) > MOST_LETTERS


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.integers(1, 12))
def test_the_latest_turns_hold_the_words_that_are_read(lengths: list[int], most: int) -> None:
    tokens = {f"t{i}": [f"{i}.{j}" for j in range(n)] for i, n in enumerate(lengths)}
    turns = [Turn(name) for name in tokens]
    kept = _latest(turns, tokens, most)
    before = len(turns) - len(kept)
    assert before % 2 == 0 and turns[before:] == list(kept)
    every, some = ([word for turn in given_ones for word in tokens[turn.text]] for given_ones in (turns, kept))
    assert some[-most:] == every[-most:]
    assert before + 2 > len(turns) or len(some) - sum(len(tokens[t.text]) for t in kept[:2]) < most


def test_reasons_of_a_cut_turn_stay_whole() -> None:
    text = "sad " * MOST_LETTERS
    spans = ((0, 3), (MOST_LETTERS - 1, MOST_LETTERS + 3), (2 * MOST_LETTERS, 2 * MOST_LETTERS + 3))
    (turn,) = cut("x:1", Dialogue("a", None, "", (Turn(text, spans),))).turns
    assert turn.reasons == ((0, 3),) and text.startswith(turn.text)


def test_a_short_fuzz_run_crashes_nowhere(root: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    fuzz = import_module("fuzz")

    told: list[str] = []
    assert fuzz.main(1500, 1, say=told.append) == 0, "\n".join(told)
    assert told[-1].split(" | ")[1] == "1500" and len(told) == len(fuzz.TARGETS) + 2
    for name in ("fuzz", "fuzz_targets"):
        sys.modules.pop(name)


def test_the_fuzz_run_tells_of_a_crash(root: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    fuzz = import_module("fuzz")

    def broken(data: bytes) -> None:
        raise UserError("x") if len(data) % 2 else IndexError("as it was")

    monkeypatch.setattr(fuzz, "TARGETS", [fuzz.Target("broken", lambda folder: broken, [b"abc", b"{}"])])
    told: list[str] = []
    assert 0 < fuzz.main(40, 0, say=told.append) < 40
    assert "IndexError: as it was" in told[-1]
