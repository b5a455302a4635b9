"""The emotional context graph of KEMP (Li et al., AAAI 2022, Sec. 3.1), which CASE's concept graph follows.

Nodes: CTX, the L words of the context, the C concepts that they call up. Edges, both ways: neighbouring words, concepts
and the words that called them up, CTX and every node, a node and itself.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from rd.data.known import Known


def adjacency(words: Tensor, known: Known) -> Tensor:
    """words (B, L) True at words -> (B, 1+L+C, 1+L+C) True where the row looks at the column. Padding: nowhere."""
    there = torch.cat([F.pad(words, (1, 0), value=True), known.concepts != 0], 1)  # (B, N)
    length, nodes = words.size(1), there.size(1)
    place = torch.arange(nodes, device=words.device)
    word = (place >= 1) & (place <= length)
    near = (place[:, None] - place).abs() <= 1  # a node and itself, too
    edges = (near & word[:, None] & word) | (place[:, None] == place) | (place == 0) | (place[:, None] == 0)  # (N, N)
    called = F.one_hot(1 + known.heads, nodes).bool()  # (B, C, N)
    edges = edges.expand(len(words), -1, -1).clone()
    edges[:, 1 + length :] |= called
    edges[:, :, 1 + length :] |= called.transpose(1, 2)
    return edges & there[:, None] & there[:, :, None]


def nodes(words: Tensor, concepts: Tensor, known: Known) -> tuple[Tensor, Tensor]:
    """CTX and words (B, L+1, D), concepts (B, C, D) -> all nodes (B, N, D); intensity of each (B, N), CTX's 0.

    The intensity of a concept is its weight, that of a word the lexicon's.
    """
    intensity = torch.cat([F.pad(known.intensity, (1, 0)), known.weights * (known.concepts != 0)], 1)
    return torch.cat([words, concepts], 1), intensity
