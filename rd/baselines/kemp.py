r"""KEMP (Li et al., AAAI 2022, "Knowledge Bridging for Empathetic Dialogue Generation").

The context is a graph of words and of the concepts they call up; each node v has an emotional intensity eta(v).

$$ \hat v_i = v_i + \mathrm{Attention}(v_i, \{v_j : A_{ij}\}), \qquad h = \mathrm{TRS_{Enc}}(\hat v), \qquad
   c_e = \sum_i s_i h_i, \quad s = \mathrm{softmax}(\eta), \qquad p(e) = \mathrm{softmax}(e_p), \quad e_p = W c_e $$
$$ L_{att} = \tfrac1N \sum_i (\bar a_i - s_i)^2, \quad \bar a_i: \text{the decoder's mean attention to node } i $$

In the shapes, N is the nodes: CTX, L words, C concepts.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rd.baselines.concept_graph import adjacency, nodes
from rd.baselines.emotional import EmotionalResponder
from rd.blocks.attention import Attention
from rd.blocks.parts import mean
from rd.config import ModelConfig
from rd.data.batch import Batch
from rd.data.text import Vocabulary
from rd.labels import EMOTIONS
from rd.responder import Context

CTX, SPEAKER, LISTENER, CONCEPT = range(4)  # states of a node
ATTENTION_WEIGHT = 0.1  # of L_att; source: the authors' code


class KEMP(EmotionalResponder):
    """Emotional context encoder, and a decoder that hears its emotional signal and looks where the emotion is."""

    reads_knowledge = True

    def __init__(self, config: ModelConfig, vectors: Tensor) -> None:
        super().__init__(config, vectors)
        width = config.width
        self.states = nn.Embedding(4, width)
        self.graph = Attention(width, config.heads, config.dropout)
        self.norm = nn.LayerNorm(width)
        self.emotion = nn.Linear(width, len(EMOTIONS))
        self.signal = nn.Linear(len(EMOTIONS), width)
        self.feature = nn.Linear(width, width, bias=False)

    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Context:
        """Memory [concepts; CTX; words] (B, N, D). Notes: the share of each node in c_e, in the memory's order."""
        x, there, intensity = self.embed_nodes(batch)
        looked_up, _ = self.graph(x, self.graph.keys(x), adjacency(batch.mask, batch.known))
        h = self.encoder(self.norm(x + self.dropout(looked_up)), there)
        share, felt = emotional_signal(h, intensity, there)
        scores = self.emotion(felt)  # e_p
        concepts = batch.known.concepts.size(1)
        memory, mask, share = (y.roll(concepts, 1) for y in (h, there, share))  # the pointer's words come last
        notes = {"emotion": scores.float().log_softmax(-1), "share": share, "felt": felt}
        return Context(memory, mask, notes, self.signal(scores) + self.feature(felt))

    def embed_nodes(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Word, place and state of every node (B, N, D), with dropout; where nodes are; their intensity (B, N).

        The place of a concept is that of the word that called it up.
        """
        source = F.pad(batch.source, (1, 0), value=Vocabulary.CTX)
        states = F.pad(torch.where(batch.speaker, SPEAKER, LISTENER), (1, 0), value=CTX)
        words = self.embed(source) + self.states(states)
        known = batch.known
        places = self.position(0, 1 + source.size(1))  # a head is 0 where L is 0, too
        concepts = self.words(known.concepts) + places[1 + known.heads] + self.states.weight[CONCEPT]
        x, intensity = nodes(words, concepts, known)
        return self.dropout(x), torch.cat([source != Vocabulary.PAD, known.concepts != 0], 1), intensity

    def extra_losses(
        self, batch: Batch, context: Context, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The emotion's cross entropy and L_att."""
        said = batch.target != Vocabulary.PAD
        attention = attention_loss(context.told.looked, said, context.notes["share"], context.mask)
        return super().extra_losses(batch, context, generator) | {"attention": ATTENTION_WEIGHT * attention}


def emotional_signal(h: Tensor, intensity: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """h (B, N, D), intensity and there (B, N) -> the share s of each node (B, N), c_e (B, D); float32."""
    share = intensity.float().masked_fill(~there, -torch.inf).softmax(-1)
    return share, (share[..., None] * h).sum(1)


def attention_loss(looked: Tensor, said: Tensor, share: Tensor, there: Tensor) -> Tensor:
    """looked (B, T, N) attention of reply words, said (B, T) True at words, share and there (B, N) -> L_att, a scalar.

    The mean is over the words of a reply, then over the nodes of a context, then over the batch: padding has no part.
    """
    each = (looked * said[..., None]).sum(1) / said.sum(1, keepdim=True)  # (B, N)
    return mean((each - share).square().sum(-1) / there.sum(-1))  # where no node is, both are 0
