"""Who answers: a causal language model run here, or a served one. Both give one record a sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from rd.annotation.client import Client
from rd.annotation.llm_backends import Ask, server
from rd.data.corpus import Sample
from rd.data.text import normalise, tokenize
from rd.errors import UserError
from rd.labels import EMOTIONS, INTENTS
from rd.llm.prompt import HEADS, WORDS, prompt, served_prompt, text_hash
from rd.llm.reader import Reader
from rd.neural_scores import load_pretrained

Record = dict[str, Any]  # id, emotion, cause, intent (None: it did not parse), reply; of a local model also its figures
CAUSE, REPLY = 24, 80  # tokens at most; ours: a cause is a phrase, and 50 words are about 65 tokens
ROOM = 600  # tokens kept free for a dialogue (200 words at most) and its answer
GOLD = 200  # of these for a reply, ours or the gold one; of a longer one, what the model's positions hold is scored
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def clipped(reply: str) -> str:
    """A reply in the protocol's form, at most 50 words."""
    return " ".join(tokenize(reply)[:WORDS])


def load_causal(name: str, precision: str = "bf16", adapter: str = "") -> tuple[Any, Any]:
    """(tokenizer, causal model), with a LoRA adapter merged into it where one is named. Raises UserError."""
    tokenizer, model = load_pretrained("AutoModelForCausalLM", name, dtype=PRECISIONS[precision])
    if not adapter:
        return tokenizer, model
    peft = peft_library()
    try:
        return tokenizer, peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().eval()
    except (OSError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"--adapter {adapter}: does not fit {name} ({why}); give what rd tune wrote") from None


def peft_library() -> Any:
    """The module `peft`. Raises UserError where it is not installed."""
    try:
        import peft
    except ImportError:
        raise UserError("LoRA adapters need peft: pip install peft (or the project's extra llm)") from None
    return peft


def _positions(model: Any) -> int:
    """Tokens that a model reads in all; a billion where it does not tell."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or 10**9


class Local:
    """A causal model. Emotion and intent are the likeliest of the closed sets, so every answer parses.

    The prompt and the shots are read once; every dialogue goes on from there. PPL is that of the gold reply after the
    model's own emotion, cause and intent.
    """

    def __init__(self, tokenizer: Any, model: Any, shown: Sequence[Sample], name: str = "") -> None:
        self.tokenizer, self.model = tokenizer, model
        try:
            self.prompt = prompt(shown, tokenizer)
        except ValueError as error:
            raise UserError(f"{name}: {error}; name a base model, or serve this one") from None
        self.sha256 = text_hash(*self.prompt)
        ends = getattr(model.generation_config, "eos_token_id", None)
        self.end = self._ids(self.prompt.end)[:1] or [tokenizer.eos_token_id]
        if None in self.end:  # without tokenizer_config.json the marks have no names
            raise UserError(f"{name}: its tokenizer names no end mark; look to its tokenizer_config.json")
        self.ends = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}
        self.emotions, self.intents = ([self._ids(f" {label}") for label in names] for names in (EMOTIONS, INTENTS))
        self.start = Reader(model)
        begin = [tokenizer.bos_token_id] if self.prompt.begin and tokenizer.bos_token_id is not None else []
        before = begin + self._ids(self.prompt.before)
        self.most = min(tokenizer.model_max_length, _positions(model))
        if len(before) + ROOM > self.most:
            raise UserError(
                f"--shots {len(shown)}: {len(before)} tokens, and {name} reads {self.most} in all; give fewer"
            )
        self.start.read([before])
        chain = [max(map(len, self.emotions)), max(map(len, self.intents)), CAUSE, GOLD]
        chain += [len(self._ids(f"\n{head}")) for head in HEADS.values()]
        self.room = self.most - len(before) - sum(chain)  # tokens of a dialogue

        self.prior = {name: torch.zeros((), device=model.device) for name in ("emotion", "intent")}

    def calibrate(self, seen: Sequence[Sample], size: int = 16) -> None:
        """From now on a label's likelihood counts less its mean over these contexts (Zhou et al. 2024, eq. 2).

        Else a small model names what it always names. Only contexts are read, and of the train split.
        """
        for name, place in (("emotion", 1), ("intent", 3)):
            found = [self._think(seen[i : i + size])[place] for i in range(0, len(seen), size)]
            self.prior[name] = torch.cat(found).mean(0)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _think(self, asked: Sequence[Sample]) -> tuple[Reader, Tensor, list[str], Tensor]:
        """Emotion -> cause -> intent: what was read so far, and the scores of the labels (B, E), (B, I)."""
        reader = self.start.fork(len(asked))
        # a word may have hundreds of tokens: the dialogue loses its front
        reader.read([self._ids(self.prompt.ask(sample))[-self.room :] for sample in asked])
        emotions = reader.log_p(self.emotions) - self.prior["emotion"]
        reader.read([self.emotions[i] + self._ids(f"\n{HEADS['cause']}") for i in emotions.argmax(-1)])
        causes = reader.say(self.tokenizer, self.ends, CAUSE)
        reader.read([self._ids(f"\n{HEADS['intent']}")] * len(asked))
        intents = reader.log_p(self.intents) - self.prior["intent"]
        reader.read([self.intents[i] + self._ids(f"\n{HEADS['reply']}") for i in intents.argmax(-1)])
        return reader, emotions, causes, intents

    def _gold(self, sample: Sample, most: int) -> tuple[list[int], int]:
        """Tokens and number of the gold reply's words: as many as fit into `most` tokens, and be it half a word."""
        words = normalise(sample.target.text).split()
        ids = self._ids(f" {' '.join(words)}")
        while len(ids) > most and len(words) > 1:
            words = words[: max(1, len(words) * most // len(ids))]
            ids = self._ids(f" {' '.join(words)}")
        return ids[:most], len(words)

    def answer(self, asked: Sequence[Sample]) -> list[Record]:
        """The chain, the gold reply's likelihood after it, and our reply. The gold reply is forgotten before ours."""
        reader, emotions, causes, intents = self._think(asked)
        left = (self.most - reader.length()).flatten().tolist()
        gold = [self._gold(*pair) for pair in zip(asked, left, strict=True)]
        nll = reader.nll([ids + self.end for ids, _ in gold])
        replies = reader.say(self.tokenizer, {*self.ends, *self.end}, REPLY, last=True)
        return [
            {
                "id": sample.id,
                "emotion": EMOTIONS[int(emotions[i].argmax())],
                "cause": causes[i],
                "intent": INTENTS[int(intents[i].argmax())],
                "reply": clipped(replies[i]),
                "nll": nll[i].item(),
                "words": gold[i][1] + 1,
                "pieces": len(gold[i][0]),
                "unknown": gold[i][0].count(self.tokenizer.unk_token_id),
                "emotions": [round(value, 4) for value in emotions[i].tolist()],  # scores of the labels
                "intents": [round(value, 4) for value in intents[i].tolist()],
            }
            for i, sample in enumerate(asked)
        ]


class Answer(BaseModel):
    """What a server must send; a strict schema keeps the order."""

    model_config = ConfigDict(extra="forbid")
    emotion: Literal[EMOTIONS]
    cause: str
    intent: Literal[INTENTS]
    reply: str


class Served:
    """A chat model behind an OpenAI-compatible server. A refusal or an answer in no form is a record without labels.

    Raises UserError where the server itself stays silent: that is no answer to be counted.
    """

    def __init__(self, name: str, shown: Sequence[Sample], cache: Path | None, ask: Ask | None = None, **more) -> None:
        self.shown, self.heard = shown, False
        self.sha256 = text_hash(served_prompt(None, shown))
        self._asks = ask or server(model=name)
        self.client = Client(self._ask, name, cache, **more)

    def _ask(self, text: str, schema: dict) -> str:
        said = self._asks(text, schema)
        self.heard = True
        return said

    def answer(self, asked: Sequence[Sample]) -> list[Record]:
        """One request a sample."""
        return [self._one(sample) for sample in asked]

    def _one(self, sample: Sample) -> Record:
        self.heard, given_up = False, self.client.report["gave_up"]
        found = self.client.answer(served_prompt(sample, self.shown), Answer)
        if self.client.report["gave_up"] > given_up and not self.heard:
            raise UserError(f"{self.client.model}: the server gave no answer (see above); --resume goes on from here")
        if found is None:
            return {"id": sample.id, "emotion": None, "cause": None, "intent": None, "reply": ""}
        cause = " ".join(found.cause.split())
        return {"id": sample.id, **found.model_dump(), "cause": cause, "reply": clipped(found.reply)}
