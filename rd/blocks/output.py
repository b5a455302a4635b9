"""The product with the whole vocabulary for a few states at a time, as decoding needs it on a CPU."""

import torch
from torch import Tensor
from torch.nn import functional as F


class Columns:
    """The output weight (V, D) as a copy that lies (C, D, V/C): transposed, and cut into C pieces.

    A product with few rows is the reading of the weight. As it lies, row by row of V, the CPU's library reads it at
    half the speed and on one core; in this form at the whole speed, its pieces on several cores. From `FEW` rows on
    the plain product is as fast. Valid until the weight changes.
    """

    FEW = 128
    PIECES = 4

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """weight (V, D), bias (V,)."""
        self.words = len(weight)
        fill = -self.words % self.PIECES  # columns without a word, to make the pieces equal
        cut = F.pad(weight.detach(), (0, 0, 0, fill)).unflatten(0, (self.PIECES, -1))  # (C, V/C, D)
        self.weight = cut.transpose(1, 2).contiguous()
        self.bias = F.pad(bias.detach(), (0, fill)).view(self.PIECES, 1, -1)

    def __call__(self, states: Tensor) -> Tensor:
        """states (B, D) -> (B, V), as F.linear gives it."""
        found = torch.baddbmm(self.bias, states.expand(self.PIECES, *states.shape), self.weight)  # (C, B, V/C)
        return found.transpose(0, 1).flatten(1)[:, : self.words]
