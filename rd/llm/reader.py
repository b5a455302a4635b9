"""A causal language model that reads many dialogues side by side, each as if it were alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

NOWHERE = -1  # place of a slot in which nothing stands


class Reader:
    """B texts in one key-value cache of S slots; begins with one empty text, `fork` makes B of one.

    place (B, S): where a slot's token stands in its own text. Attention masks are made of places and not of slots, so
    texts of any lengths change nothing for each other, and sliding windows keep their width. What was read on trial
    (answers to choose from, a gold reply) is forgotten: its place becomes NOWHERE.
    """

    def __init__(self, model: Any) -> None:
        from transformers import DynamicCache

        self.model = model
        self.cache = DynamicCache()  # without a config: no layer drops what left its window, the mask hides it
        self.place = torch.empty(1, 0, dtype=torch.long, device=model.device)
        self.next: Tensor | None = None  # (B, V) scores of each text's next token

    def fork(self, rows: int) -> Reader:
        """`rows` copies of the one text read so far, which itself stays as it is."""
        other = Reader(self.model)
        other.cache, other.place = deepcopy(self.cache), self.place.repeat(rows, 1)
        other.cache.batch_repeat_interleave(rows)
        return other

    def keep(self, rows: Tensor) -> None:
        """Only these texts, by index (K,), go on."""
        self.cache.batch_select_indices(rows)
        self.place, self.next = self.place[rows], self.next[rows]

    @torch.inference_mode()
    def read(self, texts: Sequence[Sequence[int]], keep: int = 1) -> Tensor:
        """Each text goes on by its own tokens, perhaps none. Returns the scores after the last `keep` (B, keep, V)."""
        longest = max(map(len, texts))
        ids = torch.tensor([[0] * (longest - len(text)) + list(text) for text in texts], device=self.place.device)
        new = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts], device=ids.device)
        place = torch.where(new > 0, self.length() + new.cumsum(1) - 1, NOWHERE)
        scores = self._forward(ids, place, None, keep)
        self.next = scores[:, -1]
        return scores

    @torch.inference_mode()
    def log_p(self, answers: Sequence[Sequence[int]]) -> Tensor:
        """log P(answer) as what comes next, summed over its tokens (B, A). No answer sees another; nothing is kept.

        Answers of more than one token go through the model in one row, each on a branch of its own.
        """
        device = self.place.device
        first = self.next.log_softmax(-1)[:, [answer[0] for answer in answers]]  # (B, A)
        rest = [(a, i) for a, answer in enumerate(answers) for i in range(1, len(answer))]
        if not rest:
            return first
        ids = torch.tensor([answers[a][i - 1] for a, i in rest], device=device)  # (Q,)
        told = torch.tensor([answers[a][i] for a, i in rest], device=device)
        branch, depth = torch.tensor(rest, device=device).T
        place = self.length() + depth - 1  # (B, Q)
        scores = self._forward(ids.expand_as(place), place, branch, len(rest))  # (B, Q, V)
        each = scores.log_softmax(-1).gather(-1, told.expand_as(place)[..., None])[..., 0]
        self._forget(len(rest))
        return first.index_add(1, branch, each)

    @torch.inference_mode()
    def nll(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """-log P of one text for each row, summed over its tokens (B,). Nothing is kept."""
        after, longest = self.next, max(map(len, texts)) - 1
        scores = self.read([text[:-1] for text in texts], max(longest, 1))
        found = []
        for row, text in enumerate(texts):  # row by row: a float32 copy of all the scores would be large
            seen = torch.cat([after[row : row + 1], scores[row, scores.size(1) - len(text) + 1 :]]).float()  # (T, V)
            told = torch.tensor(text, device=seen.device)[:, None]
            found.append(-seen.log_softmax(-1).gather(1, told).sum())
        self._forget(longest)
        self.next = after
        return torch.stack(found)

    def say(self, tokenizer: Any, ends: Collection[int], longest: int, last: bool = False) -> list[str]:
        """Greedy text of each row up to a line's end, an end mark or `longest` tokens; what ends it is not read.

        last: nothing will be read any more, so rows that have ended leave.
        """
        said: list[list[int]] = [[] for _ in self.place]
        alive, going = list(range(len(said))), set(range(len(said)))
        for _ in range(longest):
            for row, token in zip(alive, self.next.argmax(-1).tolist()):
                if row in going:
                    said[row].append(token)
                    if token in ends or "\n" in tokenizer.decode(said[row]):
                        going.discard(row)
            if not going:
                break
            if last and len(going) < 0.8 * len(alive):  # to pick rows copies the cache: not at each one's end
                self.keep(torch.tensor([i for i, row in enumerate(alive) if row in going], device=self.place.device))
                alive = sorted(going)
            self.read([said[row][-1:] if row in going else [] for row in alive])
        texts = [tokenizer.decode([t for t in row if t not in ends], skip_special_tokens=True) for row in said]
        return [text.partition("\n")[0].strip() for text in texts]

    def length(self) -> Tensor:
        """Tokens of each text (B, 1)."""
        return (self.place != NOWHERE).sum(1, keepdim=True)

    def _forget(self, slots: int) -> None:
        self.place[:, self.place.size(1) - slots :] = NOWHERE

    def _forward(self, ids: Tensor, place: Tensor, branch: Tensor | None, keep: int) -> Tensor:
        """ids, place (B, Q), branch (Q,) -> scores of the last `keep` (B, keep, V), in float32 where there is one."""
        old = self.place.size(1)
        self.place = torch.cat([self.place, place], 1)  # (B, S)
        behind = place[..., None] - self.place[:, None]  # (B, Q, S)
        seen = (self.place[:, None] != NOWHERE) & (behind >= 0)
        if branch is not None:
            seen[..., old:] &= branch[:, None] == branch
        scores = self.model(
            input_ids=ids, attention_mask=self._mask(seen, behind), position_ids=place.clamp(min=0),
            past_key_values=self.cache, use_cache=True, logits_to_keep=keep,
        ).logits  # fmt: skip
        return scores.float() if keep == 1 or branch is not None else scores

    def _mask(self, seen: Tensor, behind: Tensor) -> Tensor | dict[str, Tensor]:
        """What is added to attention's scores (B, 1, Q, S); one a kind of layer where some slide and others do not.

        A gap sees nothing: the lowest number, not -inf, which would make it NaN and spoil all.
        """
        config = self.model.config.get_text_config()
        window, kinds = getattr(config, "sliding_window", None), set(getattr(config, "layer_types", None) or ())
        lowest = torch.finfo(self.model.dtype).min

        def added(allowed: Tensor) -> Tensor:
            nothing = torch.zeros(allowed.shape, dtype=self.model.dtype, device=allowed.device)
            return nothing.masked_fill(~allowed, lowest)[:, None]

        near = seen & (behind < window) if window and kinds != {"full_attention"} else seen
        if len(kinds) > 1:
            return {"full_attention": added(seen), "sliding_attention": added(near)}
        return added(near)
