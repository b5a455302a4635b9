"""LoRA fine-tuning on the chain of thought (Sec. A.1: "we fine-tune ..."; Hu et al. 2022), through `peft`.

The text is the one that is asked later, without shots; the loss is on the answer's tokens only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rd.config import TrainConfig
from rd.data.corpus import Corpus, Sample, samples
from rd.data.jsonl import parse
from rd.errors import UserError
from rd.llm.answers import load_causal, peft_library
from rd.llm.prompt import Prompt, gold_chain, prompt, steps
from rd.run import save_json
from rd.train import fit

RANK, ALPHA = 8, 16  # ours; Hu et al. 2022 find 4 to 8 enough; the paper gives no value
HELD = 256  # valid samples that early stopping watches; ours
TUNING = TrainConfig(
    batch=8, steps=500, schedule="linear", lr=2e-4, warmup=25, beta2=0.999, validate_every=100, save_every=50
)  # rate: Dettmers et al. 2023 (QLoRA) for 7B and 13B; the rest ours


@dataclass(frozen=True)
class Texts:
    """B texts that end together. Padding stands left."""

    ids: list[str]
    tokens: Tensor  # (B, L)
    real: Tensor  # (B, L) 0 at padding
    asked: Tensor  # (B, L) True at the answer's tokens, which bear the loss

    def to(self, device: Any) -> Texts:
        """The same on another device."""
        return Texts(self.ids, self.tokens.to(device), self.real.to(device), self.asked.to(device))


class Adapted(nn.Module):
    """A causal model with LoRA beside its projections, as `rd.train.fit` wants it; only LoRA is learned and saved."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Texts) -> dict[str, Tensor]:
        """Mean -log p of the answers' tokens."""
        return {"answer": self.nll(batch).sum() / batch.asked.sum()}

    def nll(self, batch: Texts) -> Tensor:
        """Summed over each answer (B,)."""
        longest = int(batch.asked.sum(1).max())
        place = (batch.real.cumsum(1) - 1).clamp(min=0)
        scores = self.model(
            input_ids=batch.tokens, attention_mask=batch.real, position_ids=place, logits_to_keep=longest + 1
        ).logits[:, :-1]  # (B, T, V): answers end together, so the last T places hold them all
        told = batch.tokens[:, -longest:]
        each = F.cross_entropy(scores.transpose(1, 2).float(), told, reduction="none")  # (B, T)
        return (each * batch.asked[:, -longest:]).sum(1)

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Tensor]:
        """LoRA's weights only."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def load_state_dict(self, state: dict[str, Tensor], *_: Any, **__: Any) -> None:
        """What `state_dict` gave. Raises KeyError for a weight that is missing."""
        with torch.no_grad():
            for name, weight in self.state_dict().items():
                weight.copy_(state[name])


def collate(chosen: Sequence[Sample], asking: Prompt, tokenizer: Any) -> Texts:
    """Samples with gold chains -> padded texts, tokenised in the pieces in which `rd.llm.answers` reads them."""

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    begin = [tokenizer.bos_token_id] if asking.begin and tokenizer.bos_token_id is not None else []
    begin += ids(asking.before)
    rows = []
    for sample in chosen:
        answer = [token for piece in steps(gold_chain(sample)) for token in ids(piece)] + ids(asking.end)[:1]
        rows.append((begin + ids(asking.ask(sample)), answer))
    longest = max(len(asked) + len(answer) for asked, answer in rows)

    def padded(parts: list[list[int]]) -> Tensor:
        return torch.tensor([[0] * (longest - len(part)) + part for part in parts])

    real = padded([[1] * (len(asked) + len(answer)) for asked, answer in rows])
    asked = padded([[1] * len(answer) for _, answer in rows])
    return Texts([sample.id for sample in chosen], padded([a + b for a, b in rows]), real, asked.bool())


class Epoch(Sequence):
    """Batches of one epoch, made when they are asked for; their order comes from (seed, epoch)."""

    def __init__(self, rows: Sequence[Sample], size: int, seed: int, make: Callable, epoch: int) -> None:
        self.rows, self.size, self.make = rows, size, make
        self.order = np.random.default_rng([seed, epoch]).permutation(len(rows))

    def __len__(self) -> int:
        return max(1, len(self.rows) // self.size)

    def __getitem__(self, i: int) -> Texts:
        return self.make([self.rows[j] for j in self.order[i * self.size : (i + 1) * self.size]])


def tune(
    name: str, corpus: Corpus, out: Path, config: TrainConfig = TUNING, resume: bool = False, held: int = HELD
) -> Path:
    """Train an adapter of the model `name` into out/adapter (safetensors); returns that folder.

    Goes on from out/state.pt with `resume`. Raises UserError without peft, without labelled train and valid samples,
    and where a run lies in `out` already.
    """
    peft = peft_library()
    rows = {}
    for split in ("train", "valid"):
        rows[split] = [s for s in samples(corpus.splits.get(split, ())) if gold_chain(s)]
        if not rows[split]:
            raise UserError(f"{corpus.name}: no {split} sample has gold emotion, reasons and intent; tuning needs them")
    tokenizer, model = load_causal(name, config.precision)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        lora = peft.LoraConfig(
            r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        )  # all projections: Dettmers et al. 2023, sec. 4; no dropout: a resumed run is the uninterrupted one
        adapted = Adapted(peft.get_peft_model(model, lora))
    make = partial(collate, asking=prompt((), tokenizer), tokenizer=tokenizer)
    order = np.random.default_rng(config.seed).permutation(len(rows["valid"]))[:held]
    watched = [rows["valid"][i] for i in order]

    def validate(one: Adapted) -> dict[str, float]:
        device, total, tokens = next(one.parameters()).device, 0.0, 0
        for start in range(0, len(watched), config.batch):
            batch = make(watched[start : start + config.batch]).to(device)
            total, tokens = total + float(one.nll(batch).sum()), tokens + int(batch.asked.sum())
        return {"score": total / tokens}

    out.mkdir(parents=True, exist_ok=True)
    described = {"model": name, "config": asdict(config), "rank": RANK, "alpha": ALPHA, "data": corpus.sha256}
    _begin(out, described)
    fit(adapted, partial(Epoch, rows["train"], config.batch, config.seed, make), validate, config, out, resume, "tune")
    adapted.model.save_pretrained(out / "adapter")
    return out / "adapter"


def _begin(out: Path, described: dict[str, Any]) -> None:
    """Write config.json. Raises UserError where a state of another model, corpus or other settings lies there."""
    file, steps = out / "config.json", described["config"]["steps"]
    if (out / "state.pt").exists():
        try:
            before = parse(file.read_text("utf-8")) if file.exists() else {}
            ours = before | {"config": before["config"] | {"steps": steps}} == described
        except (ValueError, LookupError, TypeError):
            ours = False
        if not ours:
            raise UserError(f"{file}: begun with another model, corpus or other settings; give another --out")
    save_json(file, described)


def tuning(seed: int = 0, max_steps: int | None = None) -> TrainConfig:
    """The settings with this seed, perhaps cut short. Raises UserError for numbers that are none."""
    if seed < 0 or (max_steps is not None and max_steps < 1):
        raise UserError(f"--seed {seed} --max-steps {max_steps}: give whole numbers, at least 0 and 1")
    return replace(TUNING, seed=seed, steps=max_steps or TUNING.steps)
