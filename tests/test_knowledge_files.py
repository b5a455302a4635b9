"""Readers of ConceptNet, NRC-VAD and COMET: by hand on small files and a tiny random model; every fault is told."""

from __future__ import annotations

import gzip
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_knowledge import corpus
from test_neural_scores import bart, tokenizer_and

from rd.config import MINI, KnowledgeConfig
from rd.data.text import tokenize
from rd.errors import UserError
from rd.knowledge.comet import LENGTH, Comet
from rd.knowledge.files import read_conceptnet, read_vad, stamp
from rd.knowledge.knowledge import RELATIONS
from rd.knowledge.open import open_knowledge
from rd.pipeline import own_knowledge
from rd.run import Run

KNOWN = "dog bark grave tears cry snake".split()
FELT = {"grave": 0.9, "tears": 0.5, "bark": 0.1}


def line(relation: str, first: str, second: str, weight: float) -> str:
    uri = f"/a/[/r/{relation}/,/c/{first}/,/c/{second}/]"
    return f"{uri}\t/r/{relation}\t/c/{first}\t/c/{second}\t" + json.dumps({"dataset": "/d/x", "weight": weight})


LINES = [
    line("CapableOf", "en/dog", "en/bark/v/wn/animal", 10.0),
    line("CapableOf", "en/dog/n", "en/bark", 1.0),  # the surer counts
    line("RelatedTo", "en/dog", "en/grave", 1.0),
    line("RelatedTo", "en/dog", "en/tears", 5.5),
    line("RelatedTo", "en/dog", "en/snake", 0.5),  # too unsure
    line("Antonym", "en/dog", "en/snake", 9.0),  # left out
    line("dbpedia/genre", "en/dog", "en/snake", 9.0),
    line("RelatedTo", "en/dog", "fr/tears", 9.0),
    line("RelatedTo", "fr/chien", "en/cry", 9.0),
    line("RelatedTo", "en/dog", "en/guide_dog", 9.0),
    line("RelatedTo", "en/dog", "en/dog/v", 9.0),
    line("RelatedTo", "en/dog", "en/quillon", 9.0),  # the corpus cannot say it; yet it may be asked about
    line("RelatedTo", "en/the", "en/cry", 9.0),
]
DOG = (("bark", 0.55), ("tears", 0.5), ("grave", 0.45))


@pytest.mark.parametrize("packed", [True, False])
def test_conceptnet_by_hand(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "assertions.csv.gz"
    data = ("\n".join(LINES) + "\n").encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    whole = read_conceptnet(path, FELT, 9, KNOWN)
    assert whole == {
        "dog": tuple((word, pytest.approx(weight)) for word, weight in DOG),
        "bark": (("dog", pytest.approx(0.5)),),
        "grave": (("dog", 0.0),),
        "tears": (("dog", pytest.approx(0.25)),),
        "quillon": (("dog", pytest.approx(8 / 9 / 2)),),
    }
    assert read_conceptnet(path, FELT, 2, KNOWN)["dog"] == whole["dog"][:2]


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ("no tabs", "by tabs"),
        ("\t".join(["a", "/r/IsA", "/c/en/dog", "/c/en/bark", "x"]), "by tabs"),
        ("\t".join(["a", "/r/IsA", "/c/en/dog", "/c/en/bark", "{}"]), "by tabs"),
        ("\t".join(["a", "/r/IsA", "/c/en/dog", "/c/en/bark", "[1]"]), "by tabs"),
        ("\t".join(["a", "/r/IsA", "/c/en/dog", "/c/en/bark", "{}", "more"]), "by tabs"),
    ],
)
def test_a_wrong_assertion_is_told_with_its_line(tmp_path: Path, bad: str, what: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\n".join([LINES[0], bad, LINES[1]]), "utf-8")
    with pytest.raises(UserError, match=rf"a\.csv:2: .*{what}") as caught:
        read_conceptnet(path, FELT, 3, KNOWN)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (gzip.compress("\n".join(LINES * 99).encode())[:-40], "cannot be read"),
        (gzip.compress(b"x")[:4] + b"\xff" * 30, "cannot be read"),
        (b"\xff\xfe", ":1: bytes that are not UTF-8"),
        (b"", "not one assertion"),
        (LINES[7].encode(), "not one assertion"),
    ],
)
def test_a_damaged_conceptnet_is_told(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(data)
    with pytest.raises(UserError, match=what) as caught:
        read_conceptnet(path, FELT, 3, KNOWN)
    assert "\n" not in str(caught.value)


VAD = {"calm": (0.6, 0.1, 0.5), "rage": (0.1, 0.95, 0.8), "ice cream": (0.9, 0.4, 0.3)}


@pytest.mark.parametrize("head", ["", "Word\tValence\tArousal\tDominance\r\n"])
def test_vad_by_hand(tmp_path: Path, head: str) -> None:
    path = tmp_path / "NRC-VAD-Lexicon.txt"
    path.write_text(head + "".join(f"{word}\t{v}\t{a}\t{d}\r\n" for word, (v, a, d) in VAD.items()), "utf-8")
    norm = {word: math.sqrt((v - 0.5) ** 2 + (a / 2) ** 2) for word, (v, a, _) in VAD.items()}
    low, high = min(norm.values()), max(norm.values())
    assert read_vad(path) == pytest.approx({word: (value - low) / (high - low) for word, value in norm.items()})


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("calm\t0.6\t0.1\t0.5\nrage\t0.1\t0.9\n", ":2: write word"),
        ("calm\t0.6\t0.1\t0.5\nrage\t-0.8\t0.9\t0.3\n", ":2: write word"),
        ("calm\t0.6\thigh\t0.5\n", ":1: write word"),
        ("calm\tnan\t0.3\t0.5\n", ":1: write word"),
        ("\t0.6\t0.3\t0.5\n", ":1: write word"),
        ("calm\t0.6\t0.1\t0.5\n", "no two words"),
        ("", "no two words"),
    ],
)
def test_a_wrong_lexicon_is_told(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "vad.txt"
    path.write_text(text, "utf-8")
    with pytest.raises(UserError, match=what):
        read_vad(path)


def test_real_files_are_opened_and_named(tmp_path: Path, monkeypatch) -> None:
    assertions, lexicon = tmp_path / "cn.csv", tmp_path / "vad.txt"
    assertions.write_text("\n".join(LINES), "utf-8")
    lexicon.write_text("".join(f"{word}\t{v}\t{a}\t{d}\n" for word, (v, a, d) in VAD.items()), "utf-8")
    settings = replace(KnowledgeConfig(), concepts=str(assertions), intensity=str(lexicon))
    first = open_knowledge(corpus(), settings, tmp_path / "kept")
    assert first.intensity == read_vad(lexicon)
    said = {token for d in corpus().splits["train"] for turn in d.turns for token in tokenize(turn.text)}
    assert first.concepts == read_conceptnet(assertions, first.intensity, 3, said)
    assert (
        first.sources["concepts"] == f"ConceptNet 5.7 (cn.csv, {size(assertions)} bytes), {len(first.concepts)} words"
    )
    assert first.sources["intensity"] == f"NRC-VAD (vad.txt, {size(lexicon)} bytes)"
    monkeypatch.setattr("rd.knowledge.open.read_conceptnet", None)  # a second reading would fail
    assert open_knowledge(corpus(), settings, tmp_path / "kept").concepts == first.concepts
    monkeypatch.undo()
    assertions.write_text(LINES[3], "utf-8")
    assert open_knowledge(corpus(), settings, tmp_path / "kept").concepts != first.concepts


def size(path: Path) -> int:
    """Bytes of a file, counted by reading it."""
    return len(path.read_bytes())


class Reader:
    """Stands for a model that looks things up."""

    reads_knowledge = reads_commonsense = True


def test_a_run_is_not_read_with_a_file_that_has_changed_since(tmp_path: Path) -> None:
    lexicon = tmp_path / "vad.txt"
    lexicon.write_text("".join(f"{word}\t{v}\t{a}\t{d}\n" for word, (v, a, d) in VAD.items()), "utf-8")
    config = replace(MINI, knowledge=replace(KnowledgeConfig(), intensity=str(lexicon)))
    sources = open_knowledge(corpus(), config.knowledge, tmp_path / "kept").sources
    run = Run(tmp_path / "run", "kemp", config, None, Reader(), {"knowledge": dict(sources)})
    assert own_knowledge(run, corpus()).sources == sources
    lexicon.write_text(lexicon.read_text("utf-8") + "zest\t0.9\t0.9\t0.9\n", "utf-8")
    with pytest.raises(UserError, match="trained with"):
        own_knowledge(run, corpus())


@pytest.mark.parametrize(("setting", "where"), [("concepts", "conceptnet"), ("intensity", "nrc-vad")])
def test_an_absent_file_says_where_it_is_from(tmp_path: Path, setting: str, where: str) -> None:
    settings = replace(KnowledgeConfig(), **{setting: str(tmp_path / "absent")})
    with pytest.raises(UserError, match=f"absent: no such file; get it from https://.*{where}"):
        open_knowledge(corpus(), settings, tmp_path)


def test_a_stamp_changes_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = stamp(tmp_path, "")
    assert first == stamp(tmp_path, "")
    (tmp_path / "a").write_text("12")
    assert stamp(tmp_path, "") != first


@pytest.fixture
def saved(tmp_path: Path) -> tuple:
    """(tokenizer, BART, folder) of a tiny random model."""
    tokenizer, model = tokenizer_and(bart)
    tokenizer.save_pretrained(tmp_path / "comet")
    model.save_pretrained(tmp_path / "comet")
    return tokenizer, model, tmp_path / "comet"


QUERIES = [("a", "my dog died"), ("b", "i won the race today, and I am so happy"), ("a", "sad"), ("c", "")]


@torch.no_grad()
def test_comet_without_a_beam_is_the_likeliest_next_piece(saved) -> None:
    tokenizer, model, folder = saved
    plain = []
    for _, text in QUERIES:
        said = []
        for relation in RELATIONS:
            source = torch.tensor([tokenizer(f"{text} {relation} [GEN]")["input_ids"]])
            ids = [model.config.decoder_start_token_id]
            while len(ids) <= LENGTH and not (len(ids) > 1 and ids[-1] == model.config.eos_token_id):
                ids.append(model(input_ids=source, decoder_input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
            words = tokenize(tokenizer.decode(ids, skip_special_tokens=True))
            said.append(tuple(dict.fromkeys(words))[:4])
        plain.append(tuple(said))
    assert any(words for said in plain for words in said)
    for batch in (3, 64):
        assert Comet(str(folder), phrase=4, batch=batch, beam=1)(QUERIES) == plain


def test_comet_joins_its_five_best_guesses(saved) -> None:
    tokenizer, model, folder = saved
    source = torch.tensor([tokenizer("my dog died xEffect [GEN]")["input_ids"]])
    guesses = model.generate(source, num_beams=5, num_return_sequences=5, max_new_tokens=LENGTH, do_sample=False)
    words = tokenize(" ".join(tokenizer.batch_decode(guesses, skip_special_tokens=True)))
    (said,) = Comet(str(folder), phrase=99)(QUERIES[:1])
    assert said[RELATIONS.index("xEffect")] == tuple(dict.fromkeys(words))


def test_comet_reads_relation_and_text(saved) -> None:
    comet = Comet(str(saved[2]), phrase=12)
    long = ("a", "my dog " * 200)
    said = comet([*QUERIES, long])
    assert [comet([query])[0] for query in QUERIES] == said[:-1]
    assert len({words for words in said[0]}) > 1  # relations differ
    assert len(set(said)) > 1
    assert all(len(words) <= 12 and len(set(words)) == len(words) for each in said for words in each)
    asked = comet.tokenizer(f"{long[1]} xReact [GEN]", truncation=True)["input_ids"]
    assert comet.tokenizer.decode(asked, skip_special_tokens=True).endswith("x ##r ##e ##a ##c ##t [ g ##e ##n ]")


def test_none_is_no_word() -> None:
    comet = Comet.__new__(Comet)
    comet.phrase = 4
    assert comet._words([" none", "to be happy", "NONE ", "to be sad"]) == ("to", "be", "happy", "sad")
    assert comet._words([" none"]) == ()


def test_comet_is_opened_named_and_remembered(saved, tmp_path: Path, monkeypatch) -> None:
    settings = replace(KnowledgeConfig(), commonsense=str(saved[2]))
    first = open_knowledge(corpus(), settings, tmp_path / "kept")
    said = first.commonsense(QUERIES)
    assert said == Comet(str(saved[2]), settings.phrase)(QUERIES)
    assert first.sources["commonsense"] == "COMET (comet)"
    monkeypatch.setattr("rd.knowledge.open.Comet", lambda *_: None)  # asking it again would fail
    second = open_knowledge(corpus(), settings, tmp_path / "kept")
    assert second.commonsense([("elsewhere", text) for _, text in QUERIES]) == said


def test_without_weights_and_network_opening_stops_at_once(tmp_path: Path, closed_hub) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match="^made-up/no-such-comet: not loaded .* out of reach") as caught:
        open_knowledge(corpus(), replace(KnowledgeConfig(), commonsense="made-up/no-such-comet"), tmp_path)
    assert time.monotonic() - start < 30
    assert "\n" not in str(caught.value)
