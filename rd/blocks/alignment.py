r"""Alignment by mutual information (Zhou et al., ACL 2023, Sec. 3.3): what belongs together, told from the rest.

$$ L = -\frac{1}{|\mathcal{P}|} \sum_{(r, i) \in \mathcal{P}} \Big[ 2 f(a_{ri}, b_i)
       - \log \sum_j e^{f(a_{ri}, b_j)} - \log \sum_j e^{f(a_{rj}, b_i)} \Big],
   \qquad f(a, b) = \mathrm{sigmoid}(a^\top W b) $$

P are the pairs that are there; j runs over the samples for which (r, j) is there, i among them. An f between 0 and 1
keeps the loss of B pairs above 2 log(1 + (B - 1) / e): the alignment pulls gently and cannot take over.
"""

import torch
from torch import Tensor, nn


class Alignment(nn.Module):
    """Bilinear score of two views of a sample, raised for its own pair and lowered for the pairs across the batch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width) / width)  # scores near 0: the sigmoid is not yet flat

    def forward(self, a: Tensor, b: Tensor, there: Tensor) -> Tensor:
        """a (R, B, D): R nodes of each sample, b (B, D), there (R, B) -> scalar. Zero where no two pairs are there."""
        scores = torch.sigmoid((a @ self.weight @ b.T).float())  # (R, B, B)
        pairs = there[:, :, None] & there[:, None]
        scores = scores.masked_fill(~pairs, -1e4)  # exp is 0
        own = scores.diagonal(dim1=1, dim2=2)  # (R, B)
        lost = scores.logsumexp(-1) + scores.logsumexp(-2) - 2 * own
        return lost.masked_fill(~there, 0.0).sum() / there.sum().clamp_min(1)
