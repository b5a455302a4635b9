"""The commonsense cognition graph of CASE (Zhou et al., ACL 2023, Sec. 3.1-3.2): what the speaker's last turn implies.

Nodes: CTX, a phrase for each relation, the words of each phrase. Edges, both ways: CTX and a phrase, a phrase and its
words, the words of one phrase, a node and itself. A relation of which nothing is said has no node.
"""

import torch
from torch import Tensor, nn

from rd.blocks.transformer import Encoder
from rd.config import ModelConfig


def adjacency(said: Tensor) -> Tensor:
    """said (B, R, P) True at words -> (B, 1+R+RP, 1+R+RP) True where the row looks at the column."""
    _, relations, words = said.shape
    there = torch.cat([torch.ones_like(said[:, :1, 0]), said.any(-1), said.flatten(1)], 1)  # (B, N)
    place = torch.arange(there.size(1), device=said.device)
    number = torch.arange(relations, device=said.device)
    phrase = torch.cat([number.new_full((1,), -1), number, number.repeat_interleave(words)])  # (N,) -1: CTX
    hub = (place[:, None] == 0) & (place <= relations)
    edges = (phrase[:, None] == phrase) | hub | hub.T  # (N, N)
    return edges & there[:, None] & there[:, :, None]


class CognitionGraph(nn.Module):
    """Graph attention over the phrases of R relations; a relation's embedding is its phrase node before it reads."""

    def __init__(self, config: ModelConfig, relations: int) -> None:
        super().__init__()
        width = config.width
        self.relations = nn.Parameter(torch.randn(relations, width) * width**-0.5)  # (R, D)
        self.encoder = Encoder(width, config.heads, config.ffn, config.layers, config.dropout)

    def forward(self, ctx: Tensor, words: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
        """ctx (B, D), words (B, R, P, D), said (B, R, P) -> phrases (B, R, D), else 0, and where one is (B, R)."""
        there, relations = said.any(-1), self.relations.expand(len(ctx), -1, -1)
        nodes = torch.cat([ctx[:, None], relations, words.flatten(1, 2)], 1)  # (B, N, D)
        phrases = self.encoder(nodes, adjacency(said))[:, 1 : 1 + there.size(1)]
        return phrases * there[..., None], there
