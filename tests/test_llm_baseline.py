"""The chain-of-thought baseline: prompts that leak nothing, a batch equal to one by one, runs that go on."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_llm import client, fake  # noqa: F401  (a server that misbehaves)
from tiny_bert import BROKEN, random_bert
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from rd.annotation.llm_backends import local, log_likelihoods
from rd.cli import main
from rd.data.corpus import Corpus, Dialogue, Turn, read_corpus, samples
from rd.data.text import normalise, tokenize
from rd.errors import UserError
from rd.labels import EMOTIONS, INTENTS
from rd.llm import finetune
from rd.llm.answers import Local, Served, load_causal
from rd.llm.baseline import Question, run_prompt, short_name
from rd.llm.finetune import TUNING, Adapted, collate, tune
from rd.llm.measure import measure
from rd.llm.prompt import choose_asked, choose_shots, gold_chain, prompt, served_prompt, steps, transcript
from rd.llm.reader import Reader
from rd.tables import write_table

KINDS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "gemma": (  # every second layer sees four tokens back
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        {"sliding_window": 4, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]},
    ),
}


def tiny(kind: str):
    """(tokenizer, model in fp32 whose weights are chance)."""
    tokenizer, _ = random_bert()
    tokenizer.bos_token, tokenizer.eos_token = "[CLS]", "[SEP]"
    make, config, more = KINDS[kind]
    model = make(
        config(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=2048, pad_token_id=0,
            bos_token_id=2, eos_token_id=3, initializer_range=0.5, **more,
        )
    ).eval()  # fmt: skip
    return tokenizer, model


@pytest.fixture(params=KINDS)
def pair(request):
    return tiny(request.param)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return read_corpus()


def talk(key: str, emotion: str | None, *turns) -> Dialogue:
    return Dialogue(key, emotion, "", tuple(turns))


def some(corpus: Corpus, count: int) -> list:
    return choose_asked(samples(corpus.splits["test"]), 0, [], count)


# --- the prompt


def test_the_chain_of_gold_labels():
    told = Turn("I lost my Dog, it's sad.", ((2, 13), (20, 23)))
    (sample,) = samples([talk("a", "sad", told, Turn("Oh no!", intent="consoling"))])
    chain = gold_chain(sample)
    assert asdict(chain) == {"emotion": "sad", "cause": "lost my dog; sad", "intent": "consoling", "reply": "oh no !"}
    assert "Emotion:" + "".join(steps(chain)) == (
        "Emotion: sad\nCause: lost my dog; sad\nIntent: consoling\nReply: oh no !"
    )
    for other in (replace(told, reasons=None), replace(told, reasons=())):
        (bare,) = samples([talk("a", "sad", other, Turn("Oh no!", intent="consoling"))])
        assert (gold_chain(bare) is None) == (other.reasons is None)
    assert gold_chain(bare).cause == "not told"


def test_shots_differ_in_emotion_and_intent_and_come_from_the_train_split(corpus):
    shown = choose_shots(corpus.splits["train"], 9, 3)
    assert len({s.dialogue.emotion for s in shown}) == len({s.target.intent for s in shown}) == 9
    assert {s.id for s in shown} <= {s.id for s in samples(corpus.splits["train"])}
    assert all(len(s.context) <= 3 and any(turn.reasons for turn in s.context[::2]) for s in shown)
    assert [s.id for s in choose_shots(corpus.splits["train"], 9, 3)] == [s.id for s in shown]
    assert [s.id for s in choose_shots(corpus.splits["train"], 4, 3)] == [s.id for s in shown[:4]]
    assert [s.id for s in choose_shots(corpus.splits["train"], 9, 4)] != [s.id for s in shown]
    many = choose_shots(corpus.splits["train"], 20, 3)
    assert len({s.target.intent for s in many[9:18]}) == 9  # the intents start anew after nine


def test_the_asked_dialogue_is_never_shown_and_the_order_is_a_prefix(corpus):
    train = samples(corpus.splits["train"])
    shown = choose_shots(corpus.splits["train"], 6, 0)
    asked = choose_asked(train, 0, shown)
    assert len(asked) < len(train) and not {s.dialogue.id for s in asked} & {s.dialogue.id for s in shown}
    assert [s.id for s in choose_asked(train, 0, shown, 40)] == [s.id for s in asked[:40]]
    assert [s.id for s in choose_asked(train, 1, shown, 40)] != [s.id for s in asked[:40]]
    everything = samples(corpus.splits["test"])
    assert {s.id for s in choose_asked(everything, 5, shown)} == {s.id for s in everything}


def test_a_prompt_knows_no_label_of_the_asked_sample(corpus):
    tokenizer, _ = tiny("llama")
    shown = choose_shots(corpus.splits["train"], 3, 0)
    sample = next(s for s in samples(corpus.splits["test"]) if len(s.context) == 3)
    blind = [replace(turn, reasons=None, intent=None) for turn in sample.dialogue.turns]
    blind[sample.turn :] = [Turn("something else entirely")]
    other = replace(sample, dialogue=replace(sample.dialogue, emotion=None, prompt="", turns=tuple(blind)))
    asking = prompt(shown, tokenizer)
    assert asking.ask(sample) == asking.ask(other) and served_prompt(sample, shown) == served_prompt(other, shown)
    assert asking.ask(sample).endswith("Emotion:") and normalise(sample.context[-1].text) in asking.ask(sample)
    assert normalise(sample.target.text) not in asking.before + asking.ask(sample)


def test_answers_know_no_label_either(pair, corpus):
    tokenizer, model = pair
    one = Local(tokenizer, model, choose_shots(corpus.splits["train"], 2, 0))
    asked = some(corpus, 3)
    blind = []
    for s in asked:
        turns = [replace(turn, reasons=None, intent=None) for turn in s.dialogue.turns[: s.turn]]
        blind.append(replace(s, dialogue=replace(s.dialogue, emotion=None, turns=(*turns, Turn("zebra quiz")))))
    for a, b in zip(one.answer(asked), one.answer(blind), strict=True):
        same = ("id", "emotion", "cause", "intent", "reply", "intents")
        assert {k: a[k] for k in same} == {k: b[k] for k in same} and a["nll"] != b["nll"]


def test_long_dialogues_lose_their_oldest_turns():
    turns = [Turn(f"{i} " + "word " * 89) for i in range(5)]
    (*_, sample) = samples([talk("a", None, *turns, Turn("ok"))])
    lines = transcript(sample).splitlines()
    assert [line[:11] for line in lines] == ["Listener: 3", "Speaker: 4 "]


TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_chat_template_frames_the_same_text(corpus):
    tokenizer, _ = tiny("llama")
    plain = prompt(choose_shots(corpus.splits["train"], 2, 0), tokenizer)
    tokenizer.chat_template = TEMPLATE
    chat = prompt(choose_shots(corpus.splits["train"], 2, 0), tokenizer)
    assert chat == ("<user>" + plain.before, "</><assistant>", "</>", False)
    tokenizer.chat_template = "{{ messages[0]['content'] | upper }}"
    with pytest.raises(ValueError, match="template"):
        prompt((), tokenizer)


# --- the reader


def ids(*lengths: int) -> list[list[int]]:
    chance = torch.Generator().manual_seed(len(lengths))
    return [torch.randint(4, 60, (n,), generator=chance).tolist() for n in lengths]


@torch.inference_mode()
def after(model, tokens: list[int]) -> torch.Tensor:
    """Scores after the last token, from one pass over everything and transformers' own masks."""
    return model(torch.tensor([tokens])).logits[0, -1]


def test_ragged_reading_is_one_pass_each(pair):
    _, model = pair
    (begin, *first), second = ids(7, 1, 5, 9), ids(4, 0, 2)
    start = Reader(model)
    start.read([begin])
    reader = start.fork(3)
    reader.read(first)
    found = reader.read(second)[:, -1]
    for row in (0, 2):
        torch.testing.assert_close(found[row], after(model, begin + first[row] + second[row]), atol=1e-4, rtol=1e-4)
    reader.read([[9], [8], [7]])  # a row that waited has lost nothing
    torch.testing.assert_close(reader.next[1], after(model, [*begin, *first[1], 8]), atol=1e-4, rtol=1e-4)
    reader.keep(torch.tensor([2, 1]))
    reader.read([[5], [6, 5]])
    torch.testing.assert_close(
        reader.next[0], after(model, [*begin, *first[2], *second[2], 7, 5]), atol=1e-4, rtol=1e-4
    )
    assert start.place.shape == (1, 7)  # the beginning is as it was


def test_branches_are_answers_read_one_by_one(pair):
    _, model = pair
    begin, first, other, *answers = ids(6, 2, 5, 1, 3, 2, 1, 4)
    start = Reader(model)
    start.read([begin])
    reader = start.fork(2)
    reader.read([first, other])
    found = reader.log_p(answers)
    for row, tokens in enumerate((first, other)):
        told = torch.stack([after_all(model, begin + tokens, answer) for answer in answers])
        torch.testing.assert_close(found[row], told, atol=1e-4, rtol=1e-4)
    reader.read([[9], [9]])  # and they are forgotten
    torch.testing.assert_close(reader.next[1], after(model, [*begin, *other, 9]), atol=1e-4, rtol=1e-4)


def after_all(model, tokens: list[int], answer: list[int]) -> torch.Tensor:
    """log P(answer | tokens), each token from a fresh pass."""
    total = torch.zeros(())
    for token in answer:
        total = total + after(model, tokens).log_softmax(-1)[token]
        tokens = [*tokens, token]
    return total


def test_branches_agree_with_the_annotators_own_likelihoods():
    _, model = tiny("llama")
    begin, *answers = ids(9, 3, 1, 5)
    reader = Reader(model)
    reader.read([begin])
    with torch.inference_mode():
        told = log_likelihoods(model, torch.tensor(begin), [torch.tensor(answer) for answer in answers])
    torch.testing.assert_close(reader.log_p(answers)[0], told, atol=1e-4, rtol=1e-4)


def test_nll_is_the_sum_over_tokens_one_by_one_and_leaves_no_trace(pair):
    _, model = pair
    begin, first, other, gold, long = ids(6, 2, 5, 2, 6)
    start = Reader(model)
    start.read([begin])
    reader = start.fork(2)
    reader.read([first, other])
    before = reader.next.clone()
    found = reader.nll([gold, long])
    told = torch.stack([-after_all(model, begin + a, b) for a, b in ((first, gold), (other, long))])
    torch.testing.assert_close(found, told, atol=1e-4, rtol=1e-4)
    assert torch.equal(reader.next, before)
    reader.read([[9], [9]])
    torch.testing.assert_close(reader.next[0], after(model, [*begin, *first, 9]), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def plain_answer(one: Local, sample) -> dict:
    """The chain by fresh passes over one growing text, nothing cached, nothing batched."""
    tokenizer, model, asking = one.tokenizer, one.model, one.prompt

    def tokens(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def likeliest(read, labels):
        return max(labels, key=lambda label: after_all(model, read, tokens(f" {label}")).item())

    def say(read, longest):
        said = []
        while len(said) < longest:
            token = int(after(model, read + said).argmax())
            if token == tokenizer.eos_token_id or "\n" in tokenizer.decode([*said, token]):
                break
            said.append(token)
        return said, tokenizer.decode(said, skip_special_tokens=True).strip()

    read = [tokenizer.bos_token_id, *tokens(asking.before), *tokens(asking.ask(sample))]
    emotion = likeliest(read, EMOTIONS)
    read += tokens(f" {emotion}") + tokens("\nCause:")
    said, cause = say(read, 24)
    read += said + tokens("\nIntent:")
    intent = likeliest(read, INTENTS)
    read += tokens(f" {intent}") + tokens("\nReply:")
    gold = tokens(f" {normalise(sample.target.text)}") + [tokenizer.eos_token_id]  # it has no line's end
    reply = " ".join(tokenize(say(read, 80)[1])[:50])
    nll = -after_all(model, read, gold).item()
    return {"emotion": emotion, "cause": cause, "intent": intent, "reply": reply, "nll": pytest.approx(nll, rel=1e-4)}


def test_a_batch_is_one_by_one_is_a_plain_loop(pair, corpus, monkeypatch):
    monkeypatch.setattr("rd.llm.prompt.INSTRUCTION", "i am so sad\n\n")  # word by word the real one takes long
    tokenizer, model = pair
    one = Local(tokenizer, model, ())
    asked = some(corpus, 4)
    together = one.answer(asked)
    for record, sample in zip(together, asked, strict=True):
        (alone,) = one.answer([sample])
        same = ("id", "emotion", "cause", "intent", "reply", "words")
        assert {k: record[k] for k in same} == {k: alone[k] for k in same}
        assert record["nll"] == pytest.approx(alone["nll"], rel=1e-4)
        assert record["words"] == len(normalise(sample.target.text).split()) + 1
    assert len({record["reply"] for record in together}) > 1
    for record, sample in list(zip(together, asked))[:2]:
        told = plain_answer(one, sample)
        assert {name: record[name] for name in told} == told


def test_calibration_centres_the_scores_over_the_given_contexts(pair, corpus):
    tokenizer, model = pair
    one = Local(tokenizer, model, ())
    seen = some(corpus, 3)
    plain = torch.tensor([record["emotions"] for record in one.answer(seen)])
    one.calibrate(seen)
    found = one.answer(seen)
    torch.testing.assert_close(
        torch.tensor([record["emotions"] for record in found]), plain - plain.mean(0), atol=1e-3, rtol=0
    )
    named = [record["emotion"] for record in found]
    assert named == [EMOTIONS[i] for i in (plain - plain.mean(0)).argmax(1)]
    assert named != [EMOTIONS[i] for i in plain.argmax(1)]
    intents = torch.tensor([record["intents"] for record in found])
    torch.testing.assert_close(intents.mean(0), torch.zeros(9), atol=1e-3, rtol=0)
    assert one.answer(some(corpus, 5))[4] == one.answer(some(corpus, 5)[4:])[0]  # what was learned stays


def test_a_dialogue_of_endless_words_loses_its_front_and_fits_the_model(corpus, monkeypatch):
    """Each letter of these words is a token."""
    tokenizer, model = tiny("llama")
    one, far = Local(tokenizer, model, ()), []
    forward = Reader._forward

    def watched(self, ids, place, *more):
        far.append(int(place.max()))
        return forward(self, ids, place, *more)

    monkeypatch.setattr(Reader, "_forward", watched)
    words = " ".join(f"{n:02}" + "qz" * 40 for n in range(48))
    asked = [*some(corpus, 2), *samples([talk("long", "sad", Turn(words), Turn(words))])]
    *usual, long = one.answer(asked)
    assert max(far) <= 2047 and 0 < long["pieces"] < 2048 and 1 < long["words"] < len(tokenize(words))
    far.clear()
    for record, sample in zip(usual, asked, strict=False):
        (alone,) = one.answer([sample])
        assert alone == record | {
            name: pytest.approx(record[name], abs=1e-2) for name in ("nll", "emotions", "intents")
        }
    assert max(far) < 2047
    cut = replace(asked[2], dialogue=talk("long", "sad", Turn(words[-2000:]), Turn(words)))  # its end decides
    (other,) = one.answer([cut])
    assert other["emotions"] == pytest.approx(long["emotions"], abs=1e-2) and other["reply"] == long["reply"]


# --- the run folder


class Made:
    """A model that answers from a list of its own and counts what it was asked."""

    def __init__(self, *_, stop: int | None = None) -> None:
        self.sha256, self.asked, self.stop = "c0ffee", [], stop

    def answer(self, asked):
        if self.stop is not None and len(self.asked) >= self.stop:
            raise KeyboardInterrupt
        self.asked += [s.id for s in asked]
        return [
            {"id": s.id, "emotion": "sad", "cause": "my dog", "intent": INTENTS[len(s.id) % 2], "reply": f"oh {s.id} !",
             "nll": 2.0 * (len(tokenize(s.target.text)) + 1), "words": len(tokenize(s.target.text)) + 1, "pieces": 10,
             "unknown": 1, "intents": [float(i == len(s.id) % 2) for i in range(9)]}
            for s in asked
        ]  # fmt: skip


@pytest.fixture
def made(monkeypatch):
    """run(folder, corpus, ...) with a made-up model in the place of weights."""
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("rd.llm.baseline.load_causal", lambda *_: (None, None))

    def run(corpus, out, stop=None, model="made-up", **more):
        one = Made(stop=stop)
        monkeypatch.setattr("rd.llm.baseline.Local", lambda *_: one)
        return run_prompt(Question(model), corpus, out, size=4, **more), one

    return run


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_folder_has_the_keys_of_the_others(made, corpus, tmp_path):
    found, _ = made(corpus, tmp_path / "made-up-cot-s0", count=20)
    assert {path.name for path in (tmp_path / "made-up-cot-s0").iterdir()} == {
        "config.json", "answers.jsonl", "samples.jsonl", "metrics.json", "machine.json"
    }  # fmt: skip
    written = json.loads((tmp_path / "made-up-cot-s0" / "metrics.json").read_text())
    keys = "n bleu_1 bleu_4 dist_1 dist_2 ppl ppl_micro unk_rate acc_emo f1_emo acc_intent acc_intent_top3"
    keys += " acc_intent_majority acc_intent_first bertscore_f1 unparsed signature notes provenance"
    assert set(keys.split()) <= set(written) and written["n"] == 20 and written["unk_rate"] == 10
    assert all(written["notes"].get(key) for key, value in written.items() if value is None)
    assert "first 20" in written["notes"]["n"] and "247" in written["notes"]["n"]
    assert written["ppl"] == pytest.approx(torch.tensor(2.0).exp().item())
    asked = choose_asked(samples(corpus.splits["test"]), 0, [], 20)
    assert written["acc_emo"] == 100 * sum(s.dialogue.emotion == "sad" for s in asked) / 20
    facts = written["provenance"]
    assert facts["model"] == "made-up-cot" and facts["samples"] == 20
    assert facts["language_model"]["prompt"] == "c0ffee" and facts["language_model"]["shots"] == 6
    rows = read(tmp_path / "made-up-cot-s0" / "samples.jsonl")
    assert [row["id"] for row in rows] == [s.id for s in asked] and rows[0]["cause"] == "my dog"
    assert json.loads((tmp_path / "made-up-cot-s0" / "config.json").read_text())["shots"]


def test_the_table_takes_the_row(made, corpus, tmp_path):
    made(corpus, tmp_path / "qwen2-7b-cot-s0", count=8)
    table = write_table(tmp_path).read_text()
    assert "| Qwen2-7B + CoT | ours |" in table and "23.31" in table and "UNK 10.00 %" in table


def test_causes_of_a_corpus_that_is_not_free_stay_here(made, corpus, tmp_path):
    made(replace(corpus, name="jsonl"), tmp_path / "a-s0", count=4)
    assert all("cause" not in row for row in read(tmp_path / "a-s0" / "samples.jsonl"))


def test_what_was_killed_goes_on_where_it_was(made, corpus, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        made(corpus, tmp_path / "a-s0", stop=8, count=14)
    file = tmp_path / "a-s0" / "answers.jsonl"
    assert len(read(file)) == 8 and not (tmp_path / "a-s0" / "metrics.json").exists()
    file.write_bytes(file.read_bytes()[:-30])  # the last line is torn
    with pytest.raises(UserError, match="--resume"):
        made(corpus, tmp_path / "a-s0", count=14)
    found, one = made(corpus, tmp_path / "a-s0", count=14, resume=True)
    whole, other = made(corpus, tmp_path / "b-s0", count=14)
    assert one.asked == other.asked[7:]
    assert read(file) == read(tmp_path / "b-s0" / "answers.jsonl")
    assert found == whole
    more, one = made(corpus, tmp_path / "a-s0", count=20, resume=True)  # a larger count only adds
    assert len(one.asked) == 6 and more["n"] == 20


def test_other_settings_do_not_mix(made, corpus, tmp_path):
    made(corpus, tmp_path / "a-s0", count=4)
    with pytest.raises(UserError, match="other settings"):
        made(corpus, tmp_path / "a-s0", count=4, resume=True, model="another")
    with pytest.raises(UserError, match="other settings"):
        made(replace(corpus, sha256={"test.csv": "1"}), tmp_path / "a-s0", count=4, resume=True)


DEEP = "[" * 100_000 + "]" * 100_000
NO_ANSWERS = ["{}", "[]", "7", DEEP, '{"id": ' + DEEP + "}"]
NO_ANSWERS += ['{"id": ["a"], "emotion": null, "cause": null, "intent": null, "reply": ""}']


@pytest.mark.parametrize("line", NO_ANSWERS, ids=["object", "list", "number", "deep", "deeper", "id"])
def test_a_line_that_is_no_answer_is_named(made, corpus, tmp_path, line):
    made(corpus, tmp_path / "a-s0", count=4)
    with (tmp_path / "a-s0" / "answers.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(UserError, match="answers.jsonl:5: damaged .*take the broken line out") as told:
        made(corpus, tmp_path / "a-s0", count=8, resume=True)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "text", [DEEP, '{"config": ' + DEEP + "}", "", "[]", "{}"], ids=["deep", "deeper", "empty", "list", "none"]
)
def test_a_damaged_config_of_a_run_is_one_line(made, corpus, tmp_path, text):
    made(corpus, tmp_path / "a-s0", count=4)
    (tmp_path / "a-s0" / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json: its answers were begun with other settings"):
        made(corpus, tmp_path / "a-s0", count=4, resume=True)
    (tmp_path / "a-s0" / "state.pt").touch()
    with pytest.raises(UserError, match="config.json: begun with another model"):
        finetune._begin(tmp_path / "a-s0", {"config": {"steps": 1}})


@pytest.mark.parametrize(
    ("model", "short"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b-cot"),
        ("Qwen/Qwen2-7B", "qwen2-7b-cot"),
        ("/models/gemma-3-270m-q4_k_m.gguf", "gemma-3-270m-cot"),
        ("google/gemma-3-270m-it", "gemma-3-270m-cot"),
    ],
)
def test_a_row_bears_the_models_short_name(model, short, tmp_path):
    if model.endswith("gguf"):
        model = str(tmp_path / model.rpartition("/")[2])
        (tmp_path / "gemma-3-270m-q4_k_m.gguf").write_bytes(b"")
    assert short_name(model) == short


# --- a served model

SAID = '{"emotion": "sad", "cause": "my  dog", "intent": "consoling", "reply": "Oh no, I\'m so sorry!"}'


def served(fake, *script, **more) -> Served:  # noqa: F811
    one = client(fake, *script, **more)
    return Served("m", (), None, one.ask, sleep=fake.slept.append, tries=2)


def test_a_server_answers_in_the_form_and_order_of_the_chain(fake, corpus):  # noqa: F811
    (sample,) = some(corpus, 1)
    (record,) = served(fake, SAID).answer([sample])
    assert record == {
        "id": sample.id, "emotion": "sad", "cause": "my dog", "intent": "consoling",
        "reply": "oh no , i am so sorry !",
    }  # fmt: skip
    form = fake.asked[0]["response_format"]["json_schema"]
    assert form["strict"] and list(form["schema"]["properties"]) == ["emotion", "cause", "intent", "reply"]
    assert form["schema"]["properties"]["emotion"]["enum"] == list(EMOTIONS)
    assert form["schema"]["properties"]["intent"]["enum"] == list(INTENTS)
    assert fake.asked[0]["messages"][0]["content"] == served_prompt(sample, ())


def test_garbage_and_refusals_are_wrong_answers_and_silence_is_none(fake, corpus):  # noqa: F811
    asked = some(corpus, 3)
    garbage = (SAID.replace("sad", "blue", 1), "no JSON")
    one = served(fake, SAID, *garbage, {"content": None, "refusal": "I would rather not."})
    records = one.answer(asked)
    nothing = {"emotion": None, "cause": None, "intent": None, "reply": ""}
    assert records[1:] == [{"id": s.id, **nothing} for s in asked[1:]] and records[0]["emotion"] == "sad"
    with pytest.raises(UserError, match="no answer.*--resume"):
        served(fake, (500, {}), (503, {})).answer(asked[:1])


def test_an_answer_in_no_form_counts_as_wrong_whatever_was_right(corpus):
    turns = [Turn("My dog died.", ((3, 11),)), Turn("Oh no!", intent=INTENTS[0])]
    pairs = [talk("a", EMOTIONS[0], *turns), talk("b", EMOTIONS[1], turns[0], Turn("Oh.", intent=INTENTS[1]))]
    own = Corpus("jsonl", {"train": tuple(pairs), "test": tuple(pairs)})
    asked = samples(pairs)
    nothing = {"emotion": None, "cause": None, "intent": None, "reply": ""}
    good = [{"id": s.id, "emotion": s.dialogue.emotion, "intent": s.target.intent, "reply": "oh no !"} for s in asked]
    found = measure([{"id": s.id, **nothing} for s in asked], asked, own, "test", 0)
    assert (found["acc_emo"], found["f1_emo"], found["acc_intent"], found["unparsed"], found["n"]) == (0, 0, 0, 2, 2)
    found = measure([good[0], {"id": "b:2", **nothing}], asked, own, "test", 0)
    assert (found["acc_emo"], found["acc_intent"], found["unparsed"], found["n"]) == (50, 50, 1, 2)
    assert found["ppl"] is None and "server" in found["notes"]["ppl"] and found["acc_intent_top3"] is None
    assert all(found["notes"].get(key) for key, value in found.items() if value is None)


def test_a_whole_served_run(fake, corpus, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{fake.server_port}/v1")
    fake.script[:] = [SAID] * 3
    out = tmp_path / "some-chat-cot-s0"
    assert main(["prompt", "Some-Chat", "--count", "3", "--shots", "2", "--out", str(out)]) == 0
    found = json.loads((out / "metrics.json").read_text())
    assert found["n"] == 3 and found["ppl"] is None and found["dist_1"] is not None
    assert main(["prompt", "Some-Chat", "--count", "3", "--shots", "2", "--out", str(out), "--resume"]) == 0
    assert len(fake.asked) == 3


# --- fine-tuning


@pytest.fixture
def stored(tmp_path):
    """The folder of a tiny Llama."""
    tokenizer, model = tiny("llama")
    tokenizer.save_pretrained(tmp_path / "made-up-chat")
    model.save_pretrained(tmp_path / "made-up-chat")
    return str(tmp_path / "made-up-chat")


def test_the_loss_is_on_the_answer_alone_and_padding_changes_nothing(pair, corpus):
    tokenizer, model = pair
    asking = prompt((), tokenizer)
    chosen = [s for s in samples(corpus.splits["train"]) if gold_chain(s)][:3]
    tuned = Adapted(model)
    with torch.no_grad():
        found = tuned.nll(collate(chosen, asking, tokenizer))
    for sample, value in zip(chosen, found):
        texts = [asking.before, asking.ask(sample), *steps(gold_chain(sample))]
        begin, asked, *answer = tokenizer(texts, add_special_tokens=False)["input_ids"]
        read, told = [tokenizer.bos_token_id, *begin, *asked], sum(answer, [])
        with torch.no_grad():
            scores = model(torch.tensor([read + told])).logits[0].log_softmax(-1)
        plain = -sum(scores[len(read) + i - 1, token] for i, token in enumerate(told))
        assert value.item() == pytest.approx(plain.item(), rel=1e-4)


def test_tuning_learns_saves_and_goes_on(stored, corpus, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.setattr("rd.llm.prompt.INSTRUCTION", "i am so sad\n\n")
    own = replace(corpus, splits={k: v[:12] for k, v in corpus.splits.items()})
    config = replace(TUNING, batch=2, steps=6, warmup=1, lr=0.05, validate_every=3, save_every=3, precision="fp32")
    whole = tune(stored, own, tmp_path / "whole", config, held=4)
    cut, step = 0, Adapted.forward

    def killed(self, batch):
        nonlocal cut
        cut += 1
        if cut == 5:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(Adapted, "forward", killed)
    with pytest.raises(KeyboardInterrupt):
        tune(stored, own, tmp_path / "cut", config, held=4)
    again = tune(stored, own, tmp_path / "cut", config, resume=True, held=4)
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (whole, again))
    assert first and all(torch.equal(first[name], second[name]) for name in first)
    history = read(tmp_path / "whole" / "history.jsonl")
    assert history[-1]["valid/score"] < history[0]["valid/score"]
    with pytest.raises(UserError, match="--resume"):
        tune(stored, own, tmp_path / "cut", config)
    plain, tuned = (load_causal(stored, "fp32", adapter)[1] for adapter in ("", str(again)))
    ids = torch.tensor([[2, 9, 8]])
    assert not torch.allclose(plain(ids).logits, tuned(ids).logits)
    with pytest.raises(UserError, match="^--adapter"):
        load_causal(stored, "fp32", str(tmp_path))


# --- mistakes of the user


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["prompt", "no-such-q4-gguf"], "pip install no-such-q4-gguf"),
        (["prompt", "no/such.gguf"], "no such file"),
        (["prompt", "MODEL", "--count", "0"], "--count 0"),
        (["prompt", "MODEL", "--shots", "-1"], "--shots -1"),
        (["prompt", "MODEL", "--shots", "9999"], "--shots 9999"),
        (["prompt", "MODEL", "--calibrate", "-1"], "--calibrate -1"),
        (["prompt", "MODEL", "--seed", "-1"], "--seed -1"),
        (["prompt", "MODEL", "--split", "exam"], "--split exam"),
        (["prompt", "MODEL", "--preset", "none"], "--preset none"),
        (["prompt", "MODEL", "--shots", "6"], "reads 2048 in all"),
        (["prompt", "MODEL", "--data", "no/such/folder"], "no/such/folder"),
        (["prompt", "MODEL", "--adapter", "no/such/adapter"], "adapter"),
        (["tune", "MODEL", "--max-steps", "0", "--out", "OUT"], "--max-steps 0"),
    ],
)
def test_mistakes_are_one_line_and_status_2(stored, monkeypatch, tmp_path, capsys, arguments, word):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    assert main([{"MODEL": stored, "OUT": "made"}.get(a, a) for a in arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rd: ")]
    assert word in line
    assert not (tmp_path / "results").exists() or not list((tmp_path / "results").rglob("answers.jsonl"))


def test_without_peft_it_says_what_to_install(monkeypatch, stored, corpus, tmp_path):
    monkeypatch.setitem(sys.modules, "peft", None)
    for wanted in (lambda: tune(stored, corpus, tmp_path / "a"), lambda: load_causal(stored, "fp32", "somewhere")):
        with pytest.raises(UserError, match="pip install peft"):
            wanted()
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("load", [load_causal, local])
@pytest.mark.parametrize(("name", "text"), BROKEN, ids=map(str, range(len(BROKEN))))
def test_a_broken_folder_is_one_line(tmp_path, load, name, text):
    tokenizer, model = tiny("llama")
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    (tmp_path / name).write_text(text, "latin-1")
    with pytest.raises(UserError, match=f"{tmp_path}: not loaded") as caught:
        load(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("load", [load_causal, local])
def test_a_pickled_model_is_not_read(tmp_path, load):
    tokenizer, model = tiny("llama")
    tokenizer.save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load(str(tmp_path))


def test_a_tokenizer_without_an_end_mark_is_one_line(stored, tmp_path):
    for path in Path(stored).iterdir():
        if path.name != "tokenizer_config.json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    tokenizer, model = load_causal(str(tmp_path), "fp32")
    with pytest.raises(UserError, match="tokenizer_config.json"):
        Local(tokenizer, model, [], str(tmp_path))
