"""The scores of the tables, in the forms the field reports. Nothing is rounded; empty input raises, never scores 0."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sacrebleu.metrics import BLEU

from rd.data.text import normalise
from rd.errors import UserError
from rd.labels import EMOTIONS

if TYPE_CHECKING:
    import evaluate

ORDERS = (1, 2, 3, 4)


def _sacrebleu(order: int) -> BLEU:
    return BLEU(max_ngram_order=order, tokenize="none", smooth_method="none", force=True)


def _check_pairs(hyps: Sequence[str], refs: Sequence[str]) -> None:
    if not refs or len(hyps) != len(refs):
        raise ValueError(f"{len(hyps)} hypotheses and {len(refs)} references: equal numbers, at least one, are needed")
    empty = [i for i, ref in enumerate(refs) if not ref.strip()]
    if empty:
        raise ValueError(f"reference {empty[0]} is empty")


def bleu(hyps: Sequence[str], refs: Sequence[str]) -> dict[str, float | str]:
    """Corpus BLEU-1..4 x 100 with brevity penalty, and sacrebleu's signature. Texts: tokens joined by spaces.

    Papineni et al. 2002 through sacrebleu. Raises ValueError on unequal numbers, no pair, or an empty reference.
    """
    _check_pairs(hyps, refs)
    scores: dict[str, float | str] = {}
    for order in ORDERS:
        metric = _sacrebleu(order)
        scores[f"bleu_{order}"] = metric.corpus_score(list(hyps), [list(refs)]).score
    return {**scores, "signature": str(metric.get_signature())}


def distinct(hyps: Sequence[str], n: int) -> float:
    """Dist-n (Li et al. 2016): 100 x unique / total n-grams over ALL hypotheses, n-grams within one response.

    Falls with the number of hypotheses: state it. Raises ValueError when no hypothesis has n words.
    """
    grams: Counter[tuple[str, ...]] = Counter()
    for hyp in hyps:
        tokens = hyp.split()
        grams.update(zip(*(tokens[i:] for i in range(n)), strict=False))
    if not grams:
        raise ValueError(f"no hypothesis has {n} words: Dist-{n} is undefined")
    return 100 * len(grams) / grams.total()


def response_scores(hyps: Sequence[str], refs: Sequence[str]) -> dict:
    """n, bleu_1..4, dist_1, dist_2, signature. An undefined Dist-n is None, with the reason under "notes"."""
    scores: dict = {"n": len(refs), **bleu(hyps, refs)}
    for n in (1, 2):
        try:
            scores[f"dist_{n}"] = distinct(hyps, n)
        except ValueError as reason:
            scores[f"dist_{n}"] = None
            scores.setdefault("notes", {})[f"dist_{n}"] = str(reason)
    return scores


def _finite(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"{name}: empty or not finite")
    return array


def perplexity(nll_sums: ArrayLike, lengths: ArrayLike) -> dict[str, float]:
    """nll_sums (n,): -log p of each response's words and EOS, summed; lengths (n,): words + 1.

    ppl is the peers' form, exp(mean of the responses' means); ppl_micro is exp(sum / sum). Raises ValueError on empty,
    non-finite or unequal input.
    """
    sums, counts = _finite(nll_sums, "nll_sums"), _finite(lengths, "lengths")
    if sums.shape != counts.shape or (counts <= 0).any():
        raise ValueError("each sum needs one positive length")
    return {"ppl": math.exp((sums / counts).mean()), "ppl_micro": math.exp(sums.sum() / counts.sum())}


def _labels(predicted: ArrayLike, gold: ArrayLike) -> tuple[NDArray, NDArray]:
    p, g = np.asarray(predicted), np.asarray(gold)
    if not g.size or p.shape != g.shape:
        raise ValueError(f"{p.shape} predictions for {g.shape} gold labels: equal numbers, at least one, are needed")
    return p, g


def accuracy(predicted: ArrayLike, gold: ArrayLike) -> float:
    """100 x share of equal labels, (n,) and (n,). Raises ValueError on empty or unequal input."""
    p, g = _labels(predicted, gold)
    return 100 * float((p == g).mean())


def macro_f1(predicted: ArrayLike, gold: ArrayLike, classes: int = len(EMOTIONS)) -> float:
    """100 x mean F1 of the classes that occur in gold or prediction (in the test split: all 32 emotions).

    Raises ValueError on empty or unequal input and on a label outside 0..classes-1.
    """
    p, g = _labels(predicted, gold)
    if min(p.min(), g.min()) < 0 or max(p.max(), g.max()) >= classes:
        raise ValueError(f"a label lies outside 0..{classes - 1}")
    hits = np.bincount(g[p == g], minlength=classes)
    seen = np.bincount(p, minlength=classes) + np.bincount(g, minlength=classes)
    return 100 * float((2 * hits[seen > 0] / seen[seen > 0]).mean())


def intent_scores(
    scores: ArrayLike, gold: ArrayLike, emotions: ArrayLike, train_gold: ArrayLike, train_emotions: ArrayLike
) -> dict[str, float]:
    """Predicted next intent against the gold response's, beside what counting on the train split gives; all x 100.

    scores (n, I): logits or probabilities from the context alone; gold, emotions (n,): test labels; train_*: the train
    split's. Ties go to the first label. Raises ValueError on empty, non-finite or unequal input.
    """
    table, intents = _finite(scores, "scores"), np.asarray(gold)
    if table.ndim != 2 or len(table) != len(intents):
        raise ValueError(f"scores {table.shape} do not fit {intents.shape} gold labels")
    _labels(train_gold, train_emotions)
    _labels(emotions, gold)
    best = np.argsort(-table, axis=1, kind="stable")  # (n, I)
    counts = np.zeros((int(max(np.max(train_emotions), np.max(emotions))) + 1, table.shape[1]))
    np.add.at(counts, (np.asarray(train_emotions), np.asarray(train_gold)), 1)
    majority = int(counts.sum(0).argmax())
    by_emotion = np.where(counts.any(1), counts.argmax(1), majority)
    return {
        "acc_intent": accuracy(best[:, 0], intents),
        "acc_intent_top3": 100 * float((best[:, :3] == intents[:, None]).any(1).mean()),
        "acc_intent_majority": accuracy(np.full(len(intents), majority), intents),
        "acc_intent_per_emotion": accuracy(by_emotion[np.asarray(emotions)], intents),
    }


def bleu_statistics(hyps: Sequence[str], refs: Sequence[str]) -> NDArray[np.float64]:
    """(n, 10): lengths of hypothesis and reference, matches 1..4, n-grams 1..4; sums of rows make a corpus."""
    _check_pairs(hyps, refs)
    metric = BLEU(tokenize="none", smooth_method="none", force=True, effective_order=True)
    scored = (metric.sentence_score(hyp, [ref]) for hyp, ref in zip(hyps, refs, strict=True))
    return np.array([[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in scored], dtype=np.float64)


def bleu_of_sums(sums: NDArray[np.float64], order: int = 4) -> NDArray[np.float64]:
    """sums (R, 10) of `bleu_statistics` -> BLEU-`order` x 100 (R,): the statistic for `paired_bootstrap`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.nan_to_num(sums[:, 2 : 2 + order] / sums[:, 6 : 6 + order])  # no n-gram: 0, as in sacrebleu
        penalty = np.exp(np.minimum(0, 1 - sums[:, 1] / sums[:, 0]))
        return 100 * penalty * np.exp(np.log(precision).mean(1))


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    groups: Sequence[str],
    resamples: int = 10_000,
    rng: np.random.Generator | int = 0,
    statistic: Callable[[NDArray], NDArray] | None = None,
) -> dict[str, float]:
    """Difference a - b of two systems on the same samples, resampled over dialogues (Koehn 2004).

    a, b (n,): a score per sample, compared by their means; or (n, k): statistics whose sums (R, k) `statistic` turns
    into scores (R,), such as `bleu_statistics` and `bleu_of_sums`. groups (n,): dialogue ids. Returns the difference,
    its 95 % interval (low, high), the two-sided p, and the counts. Raises ValueError on empty, non-finite or unequal.
    """
    first, second = _finite(a, "a"), _finite(b, "b")
    if first.shape != second.shape or len(first) != len(groups) or resamples < 1:
        raise ValueError(f"shapes {first.shape}, {second.shape} and {len(groups)} groups do not fit")
    if statistic is None:
        ones = np.ones(len(first))
        first, second = np.stack([first, ones], 1), np.stack([second, ones], 1)
        statistic = _mean
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((2, len(names), first.shape[1]))  # (2, dialogues, k)
    np.add.at(sums, (slice(None), member), np.stack([first, second]))
    rng, found = np.random.default_rng(rng), []
    for start in range(0, resamples, 500):
        size = min(500, resamples - start)
        chosen = rng.integers(len(names), size=(size, len(names))) + len(names) * np.arange(size)[:, None]
        drawn = np.bincount(chosen.ravel(), minlength=size * len(names)).reshape(chosen.shape)  # (R, dialogues)
        found.append(statistic(drawn @ sums[0]) - statistic(drawn @ sums[1]))
    gaps = _finite(np.concatenate(found), "resampled differences")
    low, high = np.quantile(gaps, [0.025, 0.975])
    whole = sums.sum(1)  # (2, k)
    return {
        "difference": float((statistic(whole[:1]) - statistic(whole[1:])).item()),
        "low": float(low),
        "high": float(high),
        "p": min(1.0, 2 * float(min((gaps <= 0).mean(), (gaps >= 0).mean()))),
        "dialogues": len(names),
        "resamples": resamples,
    }


def _mean(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return sums[:, 0] / sums[:, 1]


def load_metric() -> "evaluate.Metric":
    """The local `evaluate` metric over this module; needs no network and keeps its inputs in memory."""
    import evaluate  # slow to import, and wanted only for the tables

    script = Path(__file__).parent / "evaluate_metric" / "empathetic_response.py"
    return evaluate.load(str(script), keep_in_memory=True)


def _read_lines(path: str | Path) -> list[str]:
    """One response a line, in the protocol's form."""
    try:
        lines = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a text file with one response a line") from None
    if lines[-1] == b"":
        lines.pop()
    if not lines:
        raise UserError(f"{path}:1: the file is empty; give one response a line")
    texts = []
    for number, line in enumerate(lines, start=1):
        try:
            texts.append(normalise(line.decode("utf-8")))
        except UnicodeDecodeError:
            raise UserError(f"{path}:{number}: not UTF-8; save the file as UTF-8") from None
    return texts


def score_files(hyp_path: str | Path, ref_path: str | Path) -> dict:
    """`response_scores` of two files with one response a line, for `rd score`.

    Both sides pass through `rd.data.text.normalise`, so raw and tokenised text score alike; the form is its own image
    but for lines with a full stop inside a token before punctuation ("dr. 's": 4 in 10,000 turns of the corpus). An
    empty hypothesis counts; an empty reference, unequal numbers, an empty file and bytes that are not UTF-8 raise
    UserError with the file and line.
    """
    hyps, refs = _read_lines(hyp_path), _read_lines(ref_path)
    if len(hyps) != len(refs):
        raise UserError(f"{hyp_path} has {len(hyps)} lines, {ref_path} {len(refs)}; give one hypothesis a reference")
    for number, ref in enumerate(refs, start=1):
        if not ref:
            raise UserError(f"{ref_path}:{number}: empty reference; leave the sample out of both files")
    return response_scores(hyps, refs)
