"""Knowledge from the train split against plain loops over made-up dialogues; what is stored, and what is never seen."""

from __future__ import annotations

import json
import math
import random
import warnings
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest

from rd.config import KnowledgeConfig
from rd.data.records import Corpus, Dialogue, Turn
from rd.data.text import tokenize
from rd.errors import UserError
from rd.knowledge import neighbours
from rd.knowledge.concepts import pmi_concepts
from rd.knowledge.knowledge import RELATIONS
from rd.knowledge.neighbours import Neighbours
from rd.knowledge.open import open_knowledge
from rd.knowledge.words import STOP, content, vader_intensity

WORDS = "dog cat rain grave tears cake party exam boss money train beach mother letter snake night".split()
FILLER = "i the was so my and very . ! a42".split()
FELT = {"tears": 0.7, "party": 0.4, "snake": 0.9, "grave": 1.0}
EMOTIONS = ("sad", "joyful", "terrified", None)


def dialogues(count: int, seed: int = 0, name: str = "d") -> tuple[Dialogue, ...]:
    """One to five turns of random words; each emotion has its favourites."""
    chance = random.Random(seed)

    def text(mood: int) -> str:
        words = chance.choices(
            WORDS, [4.0 if i % 3 == mood else 1.0 for i in range(len(WORDS))], k=chance.randint(1, 4)
        )
        words += chance.choices(FILLER, k=chance.randint(1, 4))
        chance.shuffle(words)
        return " ".join(words)

    def dialogue(i: int) -> Dialogue:
        mood = chance.randrange(4)
        turns = tuple(Turn(text(mood)) for _ in range(chance.randint(1, 5)))
        return Dialogue(f"{name}{i}", EMOTIONS[mood], text(mood) if chance.random() < 0.7 else "", turns)

    return tuple(dialogue(i) for i in range(count))


TRAIN = dialogues(60)


def corpus(**changes) -> Corpus:
    splits = {"train": TRAIN, "valid": dialogues(5, 1, "v"), "test": dialogues(5, 2, "t"), **changes}
    return Corpus("jsonl", splits)


def test_content_words_are_words_that_mean_something() -> None:
    assert content("i was so sad that a42 my dog 's , dog cry !".split()) == ["sad", "dog", "dog", "cry"]
    assert {"the", "not", "yeah"} <= STOP


def test_vader_is_scaled() -> None:
    felt = vader_intensity()
    assert felt["terrible"] == pytest.approx(2.1 / 4)
    assert "table" not in felt
    assert all(0 < value <= 1 for value in felt.values())


def plain_concepts(train, per_word: int, least: int, together: int) -> dict:
    """Counting dialogue by dialogue, for every pair of words."""
    held = [{w for t in d.turns for w in tokenize(t.text) if w in WORDS} for d in train]
    n, names = len(train), [w for w in sorted(WORDS) if sum(w in words for words in held) >= least]

    def npmi(one: list[bool], other: list[bool], enough: int) -> float:
        both = sum(a and b for a, b in zip(one, other))
        if both < enough or both == n:
            return 0.0
        return math.log(both * n / (sum(one) * sum(other))) / -math.log(both / n)

    column = {w: [w in words for words in held] for w in names}
    felt = {
        w: max([FELT.get(w, 0.0)] + [npmi(column[w], [d.emotion == e for d in train], 1) for e in EMOTIONS[:3]])
        for w in names
    }
    graph = {}
    for a in names:
        scored = [(round(max(npmi(column[a], column[b], together), 0) * felt[b], 9), b) for b in names if b != a]
        best = sorted(((weight, b) for weight, b in scored if weight > 0), key=lambda pair: (-pair[0], pair[1]))
        if best:
            graph[a] = [(b, weight) for weight, b in best[:per_word]]
    return graph


@pytest.mark.parametrize(("per_word", "least", "together"), [(3, 5, 3), (100, 20, 8), (100, 1, 1)])
def test_concepts_are_the_plain_count(per_word: int, least: int, together: int) -> None:
    found = pmi_concepts(TRAIN, FELT, per_word, least, together)
    plain = plain_concepts(TRAIN, per_word, least, together)
    assert plain
    assert {word: [name for name, _ in concepts] for word, concepts in found.items()} == {
        word: [name for name, _ in concepts] for word, concepts in plain.items()
    }
    for word, concepts in found.items():
        assert [weight for _, weight in concepts] == pytest.approx([weight for _, weight in plain[word]], abs=2e-9)
        assert all(0 < weight <= 1 and name != word for name, weight in concepts)


def test_a_word_of_every_dialogue_tells_nothing() -> None:
    train = [Dialogue(str(i), "sad", "", (Turn("dog grave cat" if i % 2 else "dog grave"),)) for i in range(8)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # 0 / 0
        assert "grave" not in dict(pmi_concepts(train, FELT, 3, 1, 1).get("dog", ()))
    assert pmi_concepts([], FELT, 3) == {}


tokens = lru_cache(maxsize=None)(tokenize)


def plain_answer(train, query: tuple[str, str], count: int, phrase: int, least: int) -> tuple:
    """tf-idf by dictionaries, one pair of turns at a time."""
    every = [content(tokens(turn.text)) for d in train for turn in d.turns]
    held = Counter(word for words in every for word in set(words))
    idf = {w: math.log((1 + len(every)) / (1 + c)) + 1 for w, c in held.items() if c >= least}

    def vector(text: str) -> dict[str, float]:
        raw = {w: (1 + math.log(c)) * idf[w] for w, c in Counter(content(tokens(text))).items() if w in idf}
        norm = math.sqrt(sum(v * v for v in raw.values()))
        return {w: v / norm for w, v in raw.items()}

    asked, near = vector(query[1]), []
    for d in train:
        for i in range(0, len(d.turns), 2):
            own = vector(d.turns[i].text)
            cosine = round(sum(v * asked.get(w, 0.0) for w, v in own.items()), 9)
            if cosine > 0 and d.id != query[0] and tokens(d.turns[i].text) != tokens(query[1]):
                near.append((cosine, d, i, own))
    near = sorted(near, key=lambda each: -each[0])[:count]
    score = {name: Counter() for name in RELATIONS}
    shared = {name: Counter() for name in RELATIONS}

    def add(name: str, cosine: float, passages: list[str], but: dict) -> None:
        total = Counter()
        for text in passages:
            total.update(vector(text))
        for word, value in total.items():
            if word not in but and word not in asked:
                score[name][word] += cosine * value
                shared[name][word] += 1

    for cosine, d, i, own in near:
        after = [turn.text for turn in d.turns[i + 1 : i + 3]]
        add("xIntent", cosine, [d.turns[i].text], {})
        add("xNeed", cosine, [t.text for t in d.turns[i - 2 : i]] if i else [d.prompt], own)
        add("xEffect", cosine, after[:1], {})
        add("xWant", cosine, after[1:], {})
        if d.emotion:
            score["xReact"][d.emotion] += cosine
            shared["xReact"][d.emotion] = 2
    said = []
    for name in RELATIONS:
        kept = [w for w in score[name] if shared[name][w] >= 2]
        most = min(3, phrase) if name == "xReact" else phrase
        said.append(tuple(sorted(kept, key=lambda w: (-round(score[name][w], 9), w))[:most]))
    return tuple(said)


QUERIES = [(d.id, turn.text) for d in (*TRAIN, *dialogues(8, 3, "new")) for turn in d.turns[::2]]


@pytest.mark.parametrize(("count", "phrase", "least"), [(5, 4, 3), (40, 12, 1), (2, 1, 30)])
def test_answers_are_the_plain_loop(count: int, phrase: int, least: int) -> None:
    chosen = QUERIES[::3]
    found = Neighbours(TRAIN, count, phrase, least)(chosen)
    plain = [plain_answer(TRAIN, query, count, phrase, least) for query in chosen]
    assert found == plain
    assert all(any(said[i] for said in plain) for i in range(len(RELATIONS))) or least == 30


def test_queries_do_not_know_each_other(monkeypatch) -> None:
    look_up = Neighbours(TRAIN, 5, 4)
    together = look_up(QUERIES)
    assert [look_up([query])[0] for query in QUERIES] == together
    monkeypatch.setattr(neighbours, "CHUNK", 7)
    assert look_up(QUERIES) == together
    assert Neighbours(TRAIN, 5, 4)(QUERIES) == together
    assert look_up([]) == []


def test_a_dialogue_never_sees_itself() -> None:
    """Though its other turns are alike. What it is labelled, and the situation told there, changes no answer to it."""
    look_up = Neighbours(TRAIN, 1000, 5)
    own = [(i, d.id, turn.text) for i, d in enumerate(TRAIN) for turn in d.turns[::2]]
    seen = look_up.nearest([(key, text) for _, key, text in own])
    strangers = look_up.nearest([("elsewhere", text) for _, _, text in own])
    assert not any(i in look_up.owner[turns] for (i, _, _), (turns, _) in zip(own, seen))
    alike = [i for (i, _, _), (turns, _) in zip(own, strangers) if i in look_up.owner[turns]]
    assert alike
    one = TRAIN[alike[0]]
    changed = replace(one, emotion="sad" if one.emotion != "sad" else "joyful", prompt="snake night")
    other = [changed if d is one else d for d in TRAIN]
    queries = [(one.id, turn.text) for turn in one.turns[::2]]
    assert Neighbours(other, 40, 12)(queries) == Neighbours(TRAIN, 40, 12)(queries)


def test_a_twin_text_is_passed_over() -> None:
    twin = Dialogue("twin", "sad", "", (Turn(QUERIES[0][1].upper()),))
    alone = Neighbours([*TRAIN, twin], 1000, 5)
    ((turns, _),) = alone.nearest([("elsewhere", QUERIES[0][1])])
    assert len(TRAIN) not in alone.owner[turns]
    ((turns, _),) = alone.nearest([("elsewhere", QUERIES[0][1] + " snake")])
    assert len(TRAIN) in alone.owner[turns]


def test_nothing_alike_is_nothing_said() -> None:
    assert Neighbours(TRAIN, 5, 4)([("x", "quillon the bastra"), ("x", "")]) == [((),) * len(RELATIONS)] * 2


def test_a_train_split_without_words_is_told() -> None:
    with pytest.raises(UserError, match="no content word"):
        Neighbours([Dialogue("a", None, "", (Turn("so so"),))], 5, 4)


def test_opening_twice_gives_the_same(tmp_path: Path, monkeypatch) -> None:
    first = open_knowledge(corpus(), KnowledgeConfig(), tmp_path / "new" / "folder")
    said = first.commonsense(QUERIES)
    assert said == Neighbours(TRAIN, KnowledgeConfig().neighbours, KnowledgeConfig().phrase)(QUERIES)
    assert first.concepts == pmi_concepts(TRAIN, vader_intensity(), KnowledgeConfig().per_word)

    def again(*_, **__):
        raise AssertionError("it was made again")

    monkeypatch.setattr("rd.knowledge.open.pmi_concepts", again)
    monkeypatch.setattr("rd.knowledge.open.Neighbours", again)
    second = open_knowledge(corpus(), KnowledgeConfig(), tmp_path / "new" / "folder")
    assert (second.concepts, second.intensity, second.sources) == (first.concepts, first.intensity, first.sources)
    assert second.commonsense(QUERIES[::-1]) == said[::-1]
    with pytest.raises(AssertionError, match="made again"):
        second.commonsense([("x", "a dog that nobody asked for")])
    assert "stand-in" in first.sources["commonsense"]
    assert not any(".part" in file.name or file.name.startswith(".") for file in tmp_path.rglob("*"))


def one_letter(data: bytes) -> bytes:
    """Another letter somewhere in the middle: the file is as readable as before."""
    at = next(i for i in range(len(data) // 2, len(data)) if data[i : i + 1].islower())
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"[1]\n" + b[9:], lambda b: b"\xff\x00" + b, one_letter],
)
def test_a_damaged_file_is_made_again(tmp_path: Path, damage) -> None:
    first = open_knowledge(corpus(), KnowledgeConfig(), tmp_path)
    said = first.commonsense(QUERIES)
    for file in tmp_path.iterdir():
        file.write_bytes(damage(file.read_bytes()))
    for _ in range(2):
        again = open_knowledge(corpus(), KnowledgeConfig(), tmp_path)
        assert again.concepts == first.concepts
        assert again.commonsense(QUERIES) == said


def test_files_of_an_earlier_version_have_no_checksum_and_are_read(tmp_path: Path, monkeypatch) -> None:
    first = open_knowledge(corpus(), KnowledgeConfig(), tmp_path)
    said = first.commonsense(QUERIES)
    (graph,), (lines,) = tmp_path.glob("*.json"), tmp_path.glob("*.jsonl")
    graph.write_text(graph.read_text("utf-8").splitlines()[0], "utf-8")
    rows = [json.loads(line)[:2] for line in lines.read_text("utf-8").splitlines() if line]
    lines.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")

    def never(*_: object) -> None:
        raise AssertionError("it was made again")

    monkeypatch.setattr("rd.knowledge.open.pmi_concepts", never)
    monkeypatch.setattr("rd.knowledge.open.Neighbours", never)
    again = open_knowledge(corpus(), KnowledgeConfig(), tmp_path)
    assert again.concepts == first.concepts and again.commonsense(QUERIES) == said


def test_what_is_stored_for_others_is_not_told_to_its_own_dialogue(tmp_path: Path) -> None:
    look_up = open_knowledge(corpus(), KnowledgeConfig(), tmp_path).commonsense
    others = [("elsewhere", text) for _, text in QUERIES]
    said, own = look_up(others), look_up(QUERIES)
    plain = Neighbours(TRAIN, KnowledgeConfig().neighbours, KnowledgeConfig().phrase)
    assert (said, own) == (plain(others), plain(QUERIES))
    assert said != own


def test_valid_and_test_are_never_used(tmp_path: Path) -> None:
    first = open_knowledge(corpus(), KnowledgeConfig(), tmp_path / "a")
    other = open_knowledge(corpus(valid=dialogues(9, 8, "v"), test=()), KnowledgeConfig(), tmp_path / "b")
    assert other.concepts == first.concepts
    assert other.commonsense(QUERIES) == first.commonsense(QUERIES)
    files = [sorted(f.name for f in (tmp_path / name).iterdir()) for name in "ab"]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    "change", [{"emotion": "proud"}, {"prompt": "a snake"}, {"id": "z"}, {"turns": (Turn("a snake at the grave"),)}]
)
def test_another_train_split_is_another_store(tmp_path: Path, change: dict) -> None:
    open_knowledge(corpus(), KnowledgeConfig(), tmp_path)
    open_knowledge(corpus(train=(replace(TRAIN[0], **change), *TRAIN[1:])), KnowledgeConfig(), tmp_path)
    assert len(list(tmp_path.glob("concepts-*.json"))) == 2


def test_settings_that_matter_name_the_store(tmp_path: Path) -> None:
    for changes in ({}, {"per_word": 1}, {"phrase": 2}, {"neighbours": 3}, {"most": 1}):
        knowledge = open_knowledge(corpus(), replace(KnowledgeConfig(), **changes), tmp_path)
        knowledge.commonsense(QUERIES[:3])
    assert len(list(tmp_path.glob("concepts-*"))) == 2
    assert len(list(tmp_path.glob("commonsense-*"))) == 3


def test_no_query_is_written(tmp_path: Path) -> None:
    open_knowledge(corpus(), KnowledgeConfig(), tmp_path).commonsense([("x", "zebra quiz of the dog")])
    (file,) = tmp_path.glob("commonsense-*")
    assert "zebra" not in file.read_text() and "dog" not in file.read_text().split("[", 2)[1]


def test_a_corpus_without_train_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no train split"):
        open_knowledge(Corpus("jsonl", {"test": TRAIN}), KnowledgeConfig(), tmp_path)


def test_a_dialogue_never_sees_another_of_its_situation() -> None:
    """As if that one were not there, but for idf: several dialogues tell of one situation and bear its emotion."""
    own = Dialogue("a", "sad", "the boss and the exam", (Turn("grave tears"), Turn("rain"), Turn("dog")))
    twin = Dialogue("b", "sad", " the boss and the exam ", (Turn("tears grave snake"), Turn("cake"), Turn("money")))
    found = Neighbours((own, twin, *TRAIN), 30, 5)
    (turns, _), (strangers, _) = found.nearest([("a", "grave tears"), ("elsewhere", "grave tears")])
    assert not {0, 1} & set(found.owner[turns].tolist())
    assert 1 in found.owner[strangers]
