r"""Linear-chain conditional random field over the tags of one turn (eq. 16; Lafferty et al. 2001).

$$ P(r|h) = \exp S(r) \Big/ \sum_{r'} \exp S(r'), \qquad S(r) = \sum_l \big( A_{r_{l-1} r_l} + e_l[r_l] \big) $$

Loss and Viterbi come from pytorch-crf; the marginals (which it lacks) are forward-backward here.
In the shapes, C is the number of tags (2: noem, em).
"""

import torch
from torch import Tensor, nn
from torchcrf import CRF


class LinearChainCRF(nn.Module):
    """A CRF that refuses masks it would silently get wrong, skips empty rows, and always counts in float32."""

    def __init__(self, tags: int = 2):
        super().__init__()
        self.crf = CRF(tags, batch_first=True)

    def loss(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Negative log-likelihood PER TOKEN: summed over all sequences, divided by the number of words in the mask.

        emissions (B, L, C), tags (B, L), mask (B, L) bool -> scalar; 0 if no word is in the mask.
        Raises ValueError for a mask with holes.
        """
        rows = self._rows(emissions, mask)
        if not rows.any():
            return 0.0 * (emissions.float().sum() + sum(p.sum() for p in self.crf.parameters()))
        tags = tags.masked_fill(~mask, 0)  # padding may hold any number, also -100
        with torch.autocast(emissions.device.type, enabled=False):
            return -self.crf(emissions[rows].float(), tags[rows], mask[rows], reduction="token_mean")

    @torch.no_grad()
    def decode(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """The most likely tags. emissions (B, L, C), mask (B, L) bool -> (B, L) long, 0 outside the mask."""
        rows = self._rows(emissions, mask)
        best = torch.zeros(mask.shape, dtype=torch.long, device=mask.device)  # (B, L)
        if rows.any():
            with torch.autocast(emissions.device.type, enabled=False):
                paths = self.crf.decode(emissions[rows].float(), mask[rows])
            best[mask] = torch.tensor([tag for path in paths for tag in path], device=mask.device)
        return best

    def marginals(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """P(tag of word l): forward-backward. emissions (B, L, C), mask (B, L) bool -> (B, L, C), 0 off the mask."""
        self._rows(emissions, mask)
        emissions, moves = emissions.float(), self.crf.transitions.float()  # (B, L, C), (C, C)
        length = mask.size(1)
        forward = [self.crf.start_transitions + emissions[:, 0]]  # l = 0: (B, C)
        for now in range(1, length):
            score = torch.logsumexp(forward[-1][:, :, None] + moves, dim=1) + emissions[:, now]
            forward.append(score)
        backward = [self.crf.end_transitions.expand(mask.size(0), -1)]  # l = L-1: (B, C)
        for after in range(length - 1, 0, -1):
            ahead = (emissions[:, after] + backward[-1])[:, None, :]  # (B, 1, C)
            score = torch.logsumexp(moves + ahead, dim=2)
            backward.append(torch.where(mask[:, after, None], score, backward[-1]))  # past the end: still the end score
        joint = torch.stack(forward, 1) + torch.stack(backward[::-1], 1)  # (B, L, C)
        return joint.softmax(-1) * mask[..., None]

    @staticmethod
    def _rows(emissions: Tensor, mask: Tensor) -> Tensor:
        """Which rows have words (B,). Raises ValueError unless every row of the mask is ones, then zeros."""
        if mask.dtype != torch.bool or mask.shape != emissions.shape[:2]:
            raise ValueError(f"mask must be bool {tuple(emissions.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}")
        if (mask[:, 1:] & ~mask[:, :-1]).any():
            raise ValueError("mask has a hole or starts late: gather the words to the left before the CRF")
        return mask.any(dim=1)
