r"""CASE (Zhou et al., ACL 2023, "CASE: Aligning Coarse-to-Fine Cognition and Affection for Empathetic Response
Generation").

$$ c = \sum_i \alpha_i v_i, \qquad \alpha = \mathrm{softmax}(q^\top \tanh v / \sqrt{D} + \eta), \qquad
   c_{aff} = \mu c_{emo} + (1 - \mu) h_{rea}, \qquad
   H' = W_2\,\mathrm{ReLU}(W_1 [H; c_{cog}; c_{aff}]) $$
$$ L = L_{res} + L_{emo} + L_{coarse} + 0.2 L_{fine} + L_{KL} + L_{bow} $$

v: the nodes of the cognition graph (c_cog) or of the emotional concept graph (c_emo; eta is a node's intensity), q: the
context; h_rea: xReact's phrase in this context. The reply's own choice of nodes, the posterior, is learned through the
bag of its words and taught to the context's (KL), in training alone.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rd.baselines.cognition_graph import CognitionGraph
from rd.baselines.concept_graph import adjacency, nodes
from rd.baselines.emotional import EmotionalResponder
from rd.blocks.alignment import Alignment
from rd.blocks.parts import everyone, mean, ratio
from rd.blocks.transformer import Encoder
from rd.config import ModelConfig
from rd.data.batch import Batch
from rd.data.text import Vocabulary
from rd.labels import EMOTIONS
from rd.responder import Context

COGNITION = 4  # xIntent, xNeed, xWant, xEffect; the fifth relation, xReact, is affection
COARSE, FINE = 1.0, 0.2  # weights of the alignments; the authors' code (main.sh)


class CASE(EmotionalResponder):
    """Memory = [cognition phrases; concepts; CTX and words with both signals] (B, 4+C+1+L, D)."""

    reads_knowledge = reads_commonsense = True

    def __init__(self, config: ModelConfig, vectors: Tensor) -> None:
        super().__init__(config, vectors)
        width = config.width
        self.cognition = CognitionGraph(config, COGNITION)
        self.reaction = CognitionGraph(config, 1)
        self.called = nn.Parameter(torch.randn(width) * width**-0.5)  # tells a concept from a word; KEMP's state
        self.affection = Encoder(width, config.heads, config.ffn, config.layers, config.dropout)
        self.query = nn.Linear(width, width)
        self.gate = nn.Linear(2 * width, 1)
        self.emotion = nn.Linear(width, len(EMOTIONS))
        self.merge_words = nn.Linear(width, width, bias=False)  # W_1 in two parts: the signals once a dialogue
        self.merge_signals = nn.Linear(2 * width, width, bias=False)
        self.merge = nn.Linear(width, width, bias=False)
        self.coarse, self.fine = Alignment(width), Alignment(width)
        self.bag = nn.Linear(2 * width, width)

    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Context:
        """Both graphs, what the context selects of each, the emotion, and the words with the signals."""
        words, mask = self.context_words(batch)
        h = self.encoder(words, mask)  # (B, L+1, D)
        ctx = h[:, 0]
        phrases, phrased = self._phrases(self.cognition, ctx, batch.known.commonsense[:, :COGNITION])
        reaction, reacts = self._phrases(self.reaction, ctx, batch.known.commonsense[:, COGNITION:])
        concepts = self.dropout(self.words(batch.known.concepts) + self.called)  # (B, C, D)
        graph, intensity = nodes(words, concepts, batch.known)
        affects = self.affection(graph, adjacency(batch.mask, batch.known))  # (B, L+1+C, D)
        felt = torch.cat([mask, batch.known.concepts != 0], 1)  # (B, L+1+C)
        notes = {"phrases": phrases, "phrased": phrased, "affects": affects, "felt": felt, "intensity": intensity}

        query = torch.tanh(self.query(ctx))
        notes["cognition"], c_cog = select(query, phrases, phrased)
        notes["affection"], c_emo = select(query, affects, felt, intensity)
        notes |= {"c_cog": c_cog, "c_emo": c_emo, "h_rea": reaction[:, 0], "reacts": reacts[:, 0]}
        mu = torch.sigmoid(self.gate(torch.cat([c_emo, reaction[:, 0]], -1))).masked_fill(~reacts, 1.0)  # (B, 1)
        c_aff = mu * c_emo + (1 - mu) * reaction[:, 0]
        notes |= {"gate": mu, "emotion": self.emotion(c_aff).float().log_softmax(-1)}

        signals = self.merge_signals(torch.cat([c_cog, c_aff], -1))
        fused = self.merge(F.relu(self.merge_words(h) + signals[:, None]))
        memory = torch.cat([phrases, affects[:, mask.size(1) :], fused], 1)
        return Context(memory, torch.cat([phrased, felt[:, mask.size(1) :], mask], 1), notes)

    def extra_losses(
        self, batch: Batch, context: Context, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Emotion, alignment of the graphs and of each phrase with the reaction, and the selection of nodes.

        Negatives are the other samples of the batch: for a phrase, those of its own relation.
        """
        notes = context.notes
        names = ("phrased", "reacts", "c_cog", "c_emo", "phrases", "h_rea")
        phrased, reacts, c_cog, c_emo, phrases, h_rea = (everyone(notes[name]) for name in names)
        coarse = self.coarse(c_cog[None], c_emo, phrased.any(-1)[None])
        fine = self.fine(phrases.transpose(0, 1), h_rea, phrased.T & reacts)
        aligned = {"coarse": COARSE * coarse, "fine": FINE * fine}
        return super().extra_losses(batch, context, generator) | aligned | self._selection(batch, notes)

    def _phrases(self, graph: CognitionGraph, ctx: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """ids (B, R, P) -> phrases (B, R, D) and where they are (B, R)."""
        words = self.dropout(self.embed(ids.flatten(0, 1))).unflatten(0, ids.shape[:2])  # (B, R, P, D)
        return graph(ctx, words, ids != Vocabulary.PAD)

    def _selection(self, batch: Batch, notes: dict[str, Tensor]) -> dict[str, Tensor]:
        """KL of the reply's choice of nodes and the context's; -log p of the reply's words (EOS, too) as a bag."""
        target = F.pad(batch.target, (1, 0), value=Vocabulary.CTX)
        reply = self.encoder(self.dropout(self.embed(target)), target != Vocabulary.PAD)[:, 0]
        cognition, c_cog = select(reply, notes["phrases"], notes["phrased"])
        affection, c_emo = select(reply, notes["affects"], notes["felt"], notes["intensity"])
        divergence = divergence_of(cognition.detach(), notes["cognition"])
        divergence = divergence + divergence_of(affection.detach(), notes["affection"])
        said = self.vocab_logits(torch.tanh(self.bag(torch.cat([c_emo, c_cog], -1)))).float().log_softmax(-1)  # (B, V)
        words = target[:, 1:] != Vocabulary.PAD
        bow = ratio(-(said.gather(1, batch.target) * words).sum(), words.sum())
        return {"kl": mean(divergence), "bow": bow}


def select(query: Tensor, states: Tensor, there: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """query (B, D), states (B, N, D), there and bias (B, N) -> weights (B, N), float32, and their mixture (B, D).

    Where there is no node, both are zero.
    """
    scores = (torch.tanh(states) @ query[..., None])[..., 0].float() / math.sqrt(query.size(-1))  # (B, N)
    scores = scores if bias is None else scores + bias
    weights = scores.masked_fill(~there, torch.finfo(scores.dtype).min).softmax(-1) * there
    return weights, (weights.to(states.dtype)[:, None] @ states)[:, 0]


def divergence_of(q: Tensor, p: Tensor) -> Tensor:
    """KL(q || p) of weights over nodes (B, N) -> (B,); 0 where there is no node."""
    return (q * (q.clamp_min(1e-9).log() - p.clamp_min(1e-9).log())).sum(-1)
