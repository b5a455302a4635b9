"""BLEU-1..4 and Dist-1/2 of responses as an `evaluate` metric, offline: `evaluate.load("<path of this file>")`."""

import datasets
import evaluate

from rd.metrics import response_scores

DESCRIPTION = "Corpus BLEU-1..4 (sacrebleu, no tokenizer, no smoothing) and Dist-1/2, all x 100, as the field reports."
INPUTS = """
Args:
    predictions: responses, tokens joined by spaces (rd.data.text.normalise).
    references: one gold response for each, in the same form.
Returns:
    n, bleu_1 .. bleu_4, dist_1, dist_2, signature; notes where a score is undefined (its value is None).
"""


class EmpatheticResponse(evaluate.Metric):
    """`compute(predictions=..., references=...)` gives what `rd.metrics.response_scores` gives."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Post (2018), A Call for Clarity in Reporting BLEU Scores; Li et al. (2016), Dist-n.",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict:
        return response_scores(predictions, references)
