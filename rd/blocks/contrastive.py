r"""Supervised NT-Xent loss over emotion labels (eq. 17-18; Chen et al. 2020).

$$ L = -\frac{1}{|\mathcal{P}|} \sum_{(i,j) \in \mathcal{P}}
       \log \frac{\exp(s(i,j)/\tau)}{\sum_{k \neq i} \exp(s(i,k)/\tau)},
   \qquad \mathcal{P} = \{(i,j): i \neq j,\ y_i = y_j\} $$

s is the cosine similarity. Two readings of eq. 17 are fixed here: k runs over everyone but i (with k = i, the pair that
is always most similar would sit in the denominator and never in the numerator), and the sum is divided by the number
of ordered positive pairs, so that the weight of the loss does not grow with the batch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent(features: Tensor, labels: Tensor, temperature: float = 0.1, known: Tensor | None = None) -> Tensor:
    """Pull examples of one label together. features (B, D), labels (B,) -> scalar.

    known (B,): True where an example has a label; the others are left out, on both sides of a pair.
    Zero (with a graph, so that it can be added and differentiated) if no two examples share a label.
    Raises ValueError for a temperature that is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    unit = F.normalize(features.float(), dim=-1, eps=1e-6)  # (B, D)
    with torch.autocast(features.device.type, enabled=False):
        similarity = unit @ unit.T / temperature  # (B, B)
    left_out = torch.eye(len(labels), dtype=torch.bool, device=labels.device)  # (B, B)
    if known is not None:
        left_out = left_out | ~(known[:, None] & known[None, :])
    log_prob = similarity.masked_fill(left_out, -torch.inf).log_softmax(dim=-1)  # (B, B)
    positive = (labels[:, None] == labels[None, :]) & ~left_out  # (B, B)
    return -log_prob.masked_fill(~positive, 0.0).sum() / positive.sum().clamp(min=1)
