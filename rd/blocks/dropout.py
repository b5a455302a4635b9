"""Dropout (Srivastava et al. 2014) that draws one random byte a number on a CPU, where torch draws whole floats."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dropout(nn.Module):
    """Zero with probability p, else x / (1 - p); the identity in eval. On a CPU p is rounded to a multiple of 1/256."""

    def __init__(self, p: float) -> None:
        """Raises ValueError unless 0 <= p < 1."""
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout must be in [0, 1), got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape -> the same shape. Chance comes from torch's default generator, as in nn.Dropout."""
        if not self.training or not self.p:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped = min(round(256 * self.p), 255)
        draws = torch.empty(x.numel() // 8 + 1, dtype=torch.int64).random_(-(2**63), None)  # eight bytes at a time
        keep = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return _Drop.apply(x, keep, 256 / (256 - dropped))


class _Drop(torch.autograd.Function):
    """x * keep * scale; one byte a number is kept for the backward pass, where autograd would keep a float."""

    @staticmethod
    def forward(ctx, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        """keep: bool, of x's shape."""
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return x * keep.to(x.dtype).mul_(scale)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        """The same for the gradient."""
        (keep,) = ctx.saved_tensors
        return grad * keep.to(grad.dtype).mul_(ctx.scale), None, None
