"""COMET-2020 (Hwang et al., AAAI 2021): a sequence-to-sequence model that completes "<text> xReact [GEN]"."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tqdm import tqdm

from rd.data.text import tokenize
from rd.knowledge.knowledge import RELATIONS, Said
from rd.neural_scores import load_pretrained

BEAM = 5  # CEM (Sabour et al., AAAI 2022) takes the five best inferences of a relation
LENGTH = 24  # subwords of one inference at most; ours: inferences are phrases


class Comet:
    """(dialogue id, a speaker's turn) of each query -> the words of each of RELATIONS; the id is not looked at.

    The BEAM best inferences of a relation are joined, the likeliest first; "none", and words said before, are left
    out. Texts that are too long lose their front, so that the relation stays. The batch size changes nothing.
    """

    def __init__(self, name: str, phrase: int, batch: int = 32, beam: int = BEAM) -> None:
        """name: on the hub, or a folder; weights as safetensors, never pickled. phrase: words of a relation at most.

        Raises UserError, within seconds without a network, where they are not there.
        """
        self.phrase, self.batch, self.beam = phrase, batch, beam
        self.tokenizer, self.model = load_pretrained("AutoModelForSeq2SeqLM", name)
        self.tokenizer.truncation_side = "left"

    def __call__(self, queries: Sequence[tuple[str, str]]) -> list[Said]:
        """One answer a query, in order."""
        asked = [f"{' '.join(text.split())} {relation} [GEN]" for _, text in queries for relation in RELATIONS]
        order = sorted(range(len(asked)), key=lambda i: len(asked[i]), reverse=True)  # like lengths together
        said: dict[int, tuple[str, ...]] = {}
        for start in tqdm(range(0, len(order), self.batch), desc="COMET", mininterval=5.0):
            chosen = order[start : start + self.batch]
            said.update(zip(chosen, self._complete([asked[i] for i in chosen]), strict=True))
        width = len(RELATIONS)
        return [tuple(said[i * width + j] for j in range(width)) for i in range(len(queries))]

    @torch.inference_mode()
    def _complete(self, asked: list[str]) -> list[tuple[str, ...]]:
        """The words of each completion."""
        inputs = self.tokenizer(asked, padding=True, truncation=True, return_tensors="pt").to(self.model.device)
        ids = self.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            num_beams=self.beam,
            num_return_sequences=self.beam,
            max_new_tokens=LENGTH,
            do_sample=False,
        )
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [self._words(texts[i : i + self.beam]) for i in range(0, len(texts), self.beam)]

    def _words(self, texts: Sequence[str]) -> tuple[str, ...]:
        inferences = [tokenize(text) for text in texts if text.strip().lower() != "none"]
        return tuple(dict.fromkeys(word for words in inferences for word in words))[: self.phrase]
