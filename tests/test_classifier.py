"""Tagger, predictor and emotion classifier with a random BERT, and the pipeline that trains and uses them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_bert import BROKEN, random_bert

from rd.annotation import distil
from rd.annotation.annotations import _seen, annotate_corpus, load_annotators, load_tagger, reference_table
from rd.annotation.distil import train_tagger
from rd.annotation.quality import intent_quality
from rd.annotation.rows import fold_of
from rd.config import MINI, AnnotatorConfig
from rd.data.batch import UNLABELLED
from rd.data.corpus import Corpus, Dialogue, Turn, samples
from rd.data.text import tokenize
from rd.errors import UserError
from rd.inputs import prepare
from rd.labels import EMOTIONS, INTENTS
from rd.models.bert import encode_segments, load_bert
from rd.models.classifier import BertClassifier, Row, emotion_row, predictor_row, tagger_row

TALK = Dialogue(
    "talk:1",
    "sad",
    "",
    (
        Turn("my dog died today", reasons=((0, 11),)),
        Turn("oh no, sorry to hear", intent="sympathizing"),
        Turn("i am so sad", reasons=((8, 11),)),
        Turn("you are great", intent="consoling"),
    ),
)


def corpus(n: int = 12) -> Corpus:
    def copy(split: str, i: int) -> Dialogue:
        turns = tuple(
            replace(t, text=f"{t.text} {'cat' * (i % 3)}", intent=t.intent if i % 2 else None) for t in TALK.turns
        )
        return Dialogue(f"{split}:{i}", EMOTIONS[i % 3], "", turns)

    return Corpus("jsonl", {s: tuple(copy(s, i) for i in range(n)) for s in ("train", "valid", "test")})


def settings() -> AnnotatorConfig:
    tiny = replace(MINI.annotators.era, steps=4, validate_every=2, save_every=2, warmup=1, batch=8, precision="fp32")
    return AnnotatorConfig(
        era=tiny, tagger=tiny, predictor=tiny, folds=3, fold_share=0.5, predictor_folds=True, max_subwords=32
    )


def load(name: str):
    return random_bert()


def classifier(**kwargs) -> BertClassifier:
    torch.manual_seed(1)
    return BertClassifier(*random_bert(), classes=9, **kwargs).eval()


def test_rows_show_what_a_classifier_may_see() -> None:
    second = samples([TALK])[1]
    assert tagger_row(second) == Row("talk:1:4", (("i am so sad", 1), ("you are great", 0)))
    assert tagger_row(second, before=False).segments == (("you are great", 0),)
    assert predictor_row(second).segments == (("my dog died today", 1), ("oh no, sorry to hear", 0), ("i am so sad", 1))
    assert predictor_row(second).turn == 2
    assert [text for text, _ in emotion_row(second).segments] == ["my dog died today", "i am so sad"]


def test_the_predictor_never_sees_the_response_nor_what_follows() -> None:
    model = classifier()
    for place in (1, 3):
        later = tuple(
            Turn("the race " + str(i), intent="wishing") if i >= place else t for i, t in enumerate(TALK.turns)
        )
        changed = replace(TALK, turns=later, emotion="joyful")
        a, b = (next(s for s in samples([d]) if s.turn == place) for d in (TALK, changed))
        np.testing.assert_array_equal(model.predict([predictor_row(a)]), model.predict([predictor_row(b)]))
        assert not np.array_equal(model.predict([tagger_row(a)]), model.predict([tagger_row(b)]))


def test_batch_mates_and_padding_change_nothing() -> None:
    model = classifier()
    rows = [row(s) for s in samples([TALK]) for row in (tagger_row, predictor_row)]
    together = model.predict(rows)
    np.testing.assert_allclose(together, np.concatenate([model.predict([r]) for r in rows]), atol=5e-3)  # bf16
    np.testing.assert_allclose(together.sum(-1), 1, atol=1e-5)
    batch = model.collate(rows)
    wide = replace(
        batch,
        pieces=torch.nn.functional.pad(batch.pieces, (0, 5)),
        attention=torch.nn.functional.pad(batch.attention, (0, 5)),
        kinds=torch.nn.functional.pad(batch.kinds, (0, 5)),
    )
    torch.testing.assert_close(model.hidden(wide), model.hidden(batch), atol=1e-5, rtol=1e-4)


def test_long_rows_lose_their_oldest_words() -> None:
    tokenizer, _ = random_bert()
    row = (("my dog died", 1), ("oh no", 0), ("i am sad", 1))
    ids, attention, kinds = encode_segments(tokenizer, [row, row[:1]], 8)
    want = ["[CLS]", "oh", "no", "[SEP]", "i", "am", "sad", "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(ids[0]) == want
    assert kinds[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert attention.sum(1).tolist() == [8, 5]


def test_one_batch_is_learned_by_heart() -> None:
    model = classifier(emotion_weight=0.5)
    rows = [Row(str(i), ((text, 0),), i) for i, text in enumerate(("my dog died", "you won", "the cat is happy"))]
    batch = model.collate(rows, [3, 1, -100], [5, -100, 6])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model.predict(rows)[:2].argmax(-1).tolist() == [3, 1]
    assert model.emotion(model.hidden(batch))[[0, 2]].argmax(-1).tolist() == [5, 6]
    assert all(p.grad is not None for name, p in model.named_parameters() if "pooler" not in name)


def test_saliency_is_gradient_times_input() -> None:
    """Against the slope of the score when one word's embeddings are scaled, by finite differences."""
    model = classifier().double()
    model.bert.config._attn_implementation = "eager"
    words = ["my", "unhappy", "dog"]
    (found,) = model.saliency([words])
    ids = model.tokenizer([words], is_split_into_words=True, return_tensors="pt")
    vectors = model.bert.get_input_embeddings()(ids["input_ids"]).detach()
    owner = torch.tensor([-1 if w is None else w for w in ids.word_ids(0)])

    def score(scale: torch.Tensor) -> torch.Tensor:
        states = model.bert(inputs_embeds=vectors * scale[None, :, None], attention_mask=ids["attention_mask"])
        return model.output(states.last_hidden_state.mean(1))[0]

    best = score(torch.ones(len(owner)).double()).argmax()
    for place in range(len(words)):
        step = 1e-4 * (owner == place).double()
        slope = (score(1 + step)[best] - score(1 - step)[best]) / 2e-4
        assert found[place] == pytest.approx(slope.item(), rel=1e-3, abs=1e-5)


def test_kappa_against_its_definition() -> None:
    class Says:
        def predict(self, rows):
            return np.eye(9)[[0, 0, 1, 1, 2, 0]]

    gold = [0, 1, 1, 1, 2, 2]
    found = intent_quality(Says(), [(None, label, 0) for label in gold])
    chance = (3 * 1 + 2 * 3 + 1 * 2) / 36
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["kappa"] == pytest.approx((4 / 6 - chance) / (1 - chance))
    assert found["confusion"][1][0] == 1


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("text", [DEEP, '{"train": ' + DEEP + "}", "7", ""], ids=["deep", "deeper", "number", "empty"])
def test_a_damaged_config_of_an_annotator_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "tagger").mkdir()
    for name in ("metrics.json", "best.safetensors", "config.json"):
        (tmp_path / "tagger" / name).write_text(text)
    with pytest.raises(UserError, match="tagger/config.json: damaged") as told:
        load_tagger(settings(), tmp_path, load)
    assert "\n" not in str(told.value)


def test_annotations_of_a_corpus_cross_fitted_and_resumed(tmp_path: Path) -> None:
    data, config = corpus(), settings()
    found = annotate_corpus(data, config, tmp_path, load=load)
    every = [s for split in data.splits.values() for s in samples(split)]
    assert set(found.priors) == set(found.intents) == {s.id for s in every}
    for sample in every:
        assert found.priors[sample.id].shape == (9,)
        label, source = found.intent(sample.dialogue.id, sample.turn)
        assert source == ("gold" if sample.target.intent else "tagger")
        assert label == (sample.target.intent or label) in INTENTS
        for turn in sample.context:
            tags, vectors = found.lookup(sample.id, turn.text)
            assert len(tags) == len(vectors) == len(tokenize(turn.text))
    loaded = load_annotators(config, tmp_path, load)
    train, test = samples(data.splits["train"]), samples(data.splits["test"])
    held = loaded.priors(test)
    np.testing.assert_allclose([found.priors[s.id] for s in test], [held[s.id] for s in test], atol=5e-3)
    full = loaded.priors(train)
    assert not np.allclose([found.priors[s.id] for s in train], [full[s.id] for s in train], atol=1e-6)  # out of fold
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    again = annotate_corpus(data, config, tmp_path, load=load)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert again.intents == found.intents
    assert not list(tmp_path.rglob("state.pt"))

    def flip(file: Path) -> bytes:
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
        return data

    kept = [*tmp_path.rglob("*.npz"), *tmp_path.rglob("tags.u8")]
    whole = {file: flip(file) for file in kept}  # caches are made again
    annotate_corpus(data, config, tmp_path, load=load)
    assert len(kept) > 4 and whole == {file: file.read_bytes() for file in kept}
    for name, told in (("best.safetensors", "damaged"), ("config.json", "damaged|other settings")):  # models are not
        whole = flip(tmp_path / "tagger" / name)
        with pytest.raises(UserError, match=told):
            annotate_corpus(data, config, tmp_path, load=load)
        (tmp_path / "tagger" / name).write_bytes(whole)


def test_no_dialogue_teaches_its_emotion_to_both_era_and_the_experts(tmp_path: Path, monkeypatch) -> None:
    """ERA's batches hold the dialogues with reasons and no other; a responder's examples lack just those emotions."""
    whole = corpus()
    bare = [replace(d, turns=tuple(replace(t, reasons=None) for t in d.turns)) for d in whole.splits["train"][:5]]
    data = replace(whole, splits=whole.splits | {"train": (*bare, *whole.splits["train"][5:])})
    taught, collate = set(), distil.turn_batch

    def spy(items, *rest):
        taught.update(item.id.rpartition(":")[0] for item in items)
        return collate(items, *rest)

    monkeypatch.setattr(distil, "turn_batch", spy)
    found = annotate_corpus(data, settings(), tmp_path, crossfit=False, load=load)
    assert taught == found.seen == {d.id for d in data.splits["train"][5:]}
    inputs = prepare(data, replace(MINI, annotators=settings()), annotations=found)
    for split, examples in inputs.examples.items():
        for example in examples:
            hidden = example.id.rpartition(":")[0] in found.seen
            assert hidden == (example.emotion == UNLABELLED), example.id
            assert not hidden or split == "train"
    assert _seen(whole.splits["train"], settings()) == set()  # all have reasons: no other would be left to learn from
    assert _seen(data.splits["train"], replace(settings(), era_emotion=0.0)) == set()


def test_another_setting_is_refused_and_an_unfinished_stage_is_not_taken(tmp_path: Path) -> None:
    data, config = corpus(), settings()
    train_tagger(data, config, tmp_path, load=load)
    with pytest.raises(UserError, match="other settings"):
        train_tagger(data, replace(config, tagger=replace(config.tagger, lr=1.0)), tmp_path, load=load)
    with pytest.raises(UserError, match="era: this annotator is not trained"):
        load_annotators(config, tmp_path, load)
    measured = json.loads((tmp_path / "tagger" / "metrics.json").read_text())
    assert set(measured) == {"valid", "test"}
    with pytest.raises(UserError, match="scope"):
        annotate_corpus(data, replace(config, scope="context"), tmp_path, load=load)


def test_figures_without_weights_are_no_finished_stage(tmp_path: Path) -> None:
    data, config = corpus(), settings()
    train_tagger(data, config, tmp_path, load=load)
    weights, figures = tmp_path / "tagger" / "best.safetensors", tmp_path / "tagger" / "metrics.json"
    before = weights.read_bytes(), figures.read_text()
    weights.unlink()  # as in a fresh clone: weights are not committed
    train_tagger(data, config, tmp_path, load=load)
    assert (weights.read_bytes(), figures.read_text()) == before


def test_folds_split_dialogues_and_the_table_takes_the_commonest() -> None:
    folds = [fold_of(f"d{i}", 3) for i in range(300)]
    assert min(folds.count(f) for f in range(3)) > 60
    data = corpus()
    intents = {
        s.id: "wishing" if s.dialogue.emotion == EMOTIONS[0] else "neutral" for s in samples(data.splits["train"])
    }
    table = reference_table(data.splits["train"], intents)
    assert table.sum(1).tolist() == [3] * len(EMOTIONS)
    assert table[0, INTENTS.index("wishing")]
    assert table[1, INTENTS.index("neutral")]


def test_an_unknown_encoder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no such encoder") as caught:
        load_bert(str(tmp_path / "empty"))
    assert "\n" not in str(caught.value)


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """The folder of a random BERT."""
    tokenizer, bert = random_bert()
    tokenizer.save_pretrained(tmp_path)
    bert.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "text"), BROKEN, ids=map(str, range(len(BROKEN))))
def test_a_broken_encoder_is_one_clear_line(encoder: Path, name: str, text: str) -> None:
    (encoder / name).write_text(text, "latin-1")
    with pytest.raises(UserError, match=f"^{encoder}: no such encoder") as caught:
        load_bert(str(encoder))
    assert "\n" not in str(caught.value)


def test_a_cut_encoder_is_one_clear_line(encoder: Path) -> None:
    load_bert(str(encoder))
    weights = (encoder / "model.safetensors").read_bytes()
    (encoder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match=f"^{encoder}: no such encoder"):
        load_bert(str(encoder))


def test_a_pickled_encoder_is_not_read(encoder: Path) -> None:
    (encoder / "model.safetensors").unlink()
    torch.save(random_bert()[1].state_dict(), encoder / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load_bert(str(encoder))


def test_an_encoder_is_not_made_up(encoder: Path) -> None:
    save_file({}, encoder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=f"^{encoder}: its weights lack"):
        load_bert(str(encoder))
