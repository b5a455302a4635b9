"""Our attention and layers against torch's own with the same weights."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from rd.blocks.attention import Attention
from rd.blocks.transformer import Decoder, DecoderLayer, EncoderLayer, positions

B, T, S, D, HEADS = 3, 4, 5, 12, 3


def randomise(*modules: nn.Module) -> None:
    """Biases and norms, too: zeros and ones would hide a missing one."""
    for module in modules:
        for weight in module.parameters():
            nn.init.normal_(weight, std=0.5)


def to_torch(ours: Attention, theirs: nn.MultiheadAttention) -> nn.MultiheadAttention:
    """Copies our weights into torch's module, whatever the form of its three projections."""
    key, value = ours.key_value.weight.chunk(2)
    with torch.no_grad():
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        if theirs.in_proj_weight is not None:
            theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, key, value]))
        else:
            for name, weight in (("q", ours.query.weight), ("k", key), ("v", value)):
                getattr(theirs, f"{name}_proj_weight").copy_(weight)
        theirs.out_proj.load_state_dict(ours.output.state_dict())
    return theirs


def ragged(rows: int, columns: int) -> torch.Tensor:
    """(B, S) True at words: each row one word shorter."""
    return torch.arange(columns) < columns - torch.arange(rows)[:, None]


@pytest.mark.parametrize("source", [D, 7])
def test_attention_is_torchs_output_weights_and_gradients(source):
    ours = Attention(D, HEADS, source=source)
    randomise(ours)
    theirs = to_torch(ours, nn.MultiheadAttention(D, HEADS, kdim=source, vdim=source, batch_first=True))
    query, memory, mask = torch.randn(B, T, D), torch.randn(B, S, source), ragged(B, S)
    leaves = [[x.clone().requires_grad_() for x in (query, memory)] for _ in range(2)]
    found = ours(leaves[0][0], ours.keys(leaves[0][1]), mask[:, None])
    expected = theirs(leaves[1][0], leaves[1][1], leaves[1][1], key_padding_mask=~mask)
    assert_close(found, expected)
    way = torch.randn(B, T, D)
    assert_close(
        torch.autograd.grad((found[0] * way).sum(), leaves[0]),
        torch.autograd.grad((expected[0] * way).sum(), leaves[1]),
    )


@pytest.mark.parametrize("kind", ["none", "row", "place"])
def test_the_output_alone_is_that_with_weights_and_nothing_where_there_is_nothing_to_see(kind):
    ours = Attention(D, HEADS)
    randomise(ours)
    query, memory = torch.randn(B, T, D), torch.randn(B, S, D)
    mask = {"none": None, "row": ragged(B, S)[:, None], "place": torch.rand(B, T, S) < 0.5}[kind]
    if mask is not None:
        mask[1] = False
    for training in (True, False):  # two ways to compute it
        found = ours.train(training).read(query, ours.keys(memory), mask)
        assert_close(found, ours(query, ours.keys(memory), mask)[0])
        if mask is not None:
            assert_close(found[1], ours.output.bias.expand(T, D))


def test_the_kernel_that_a_gpu_trains_with_has_the_same_gradients_and_drops_weights():
    """On the CPU, which has a slow form of it; a row that sees nothing moves nothing. Heads of 3 columns are padded."""
    ours = Attention(D, HEADS, dropout=0.0).train()
    randomise(ours)
    query, memory, mask = torch.randn(B, T, D), torch.randn(B, S, D, requires_grad=True), torch.rand(B, T, S) < 0.5
    mask[1] = False

    def fused() -> torch.Tensor:
        split = ours._split(ours.query(query))
        return ours._joined(ours._fused(split, ours.keys(memory), mask), mask)

    way, plain = torch.randn(B, T, D), ours(query, ours.keys(memory), mask)[0]
    leaves = [memory, *ours.parameters()]
    found, expected = (torch.autograd.grad((x * way).sum(), leaves) for x in (fused(), plain))
    assert_close(found, expected)
    assert not found[0][1].any()
    ours.dropout.p = 0.4
    with torch.no_grad():
        draws = torch.stack([fused() for _ in range(4000)])
    assert len(draws.unique(dim=0)) > 1000
    error = draws.std(0) / len(draws) ** 0.5
    assert bool(((draws.mean(0) - plain.detach()).abs() <= 5 * error + 1e-5).all())


def test_attention_with_a_mask_of_its_own_for_each_place_is_torchs_sdpa():
    ours = Attention(D, HEADS)
    randomise(ours)
    x, causal = torch.randn(B, T, D), torch.ones(T, T, dtype=torch.bool).tril()[None]
    key, value = ours.keys(x)
    query = ours.query(x).view(B, T, HEADS, D // HEADS).transpose(1, 2)
    read = F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).reshape(B, T, D)
    assert_close(ours(x, (key, value), causal)[0], ours.output(read))


def test_a_row_that_may_look_nowhere_reads_zeros():
    ours = Attention(D, HEADS)
    randomise(ours)
    x = torch.randn(2, T, D)
    mask = torch.tensor([[True] * T, [False] * T])[:, None]
    found, weights = ours(x, ours.keys(x), mask)
    assert_close(found[1], ours.output.bias.expand(T, D))
    assert_close(weights.sum(-1), torch.tensor([[1.0] * T, [0.0] * T]))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="5 heads do not divide width 12"):
        Attention(D, 5)


def copy_layer(ours: nn.Module, theirs: nn.Module) -> None:
    to_torch(ours.attend, theirs.self_attn)
    theirs.linear1.load_state_dict(ours.feed[0].state_dict())
    theirs.linear2.load_state_dict(ours.feed[3].state_dict())
    for i, norm in enumerate(ours.norms, start=1):
        getattr(theirs, f"norm{i}").load_state_dict(norm.state_dict())


def test_encoder_layer_is_torchs():
    ours = EncoderLayer(D, HEADS, 20, dropout=0.3).eval()
    theirs = nn.TransformerEncoderLayer(D, HEADS, 20, batch_first=True, norm_first=True).eval()
    randomise(ours)
    copy_layer(ours, theirs)
    x, mask = torch.randn(B, S, D), ragged(B, S)
    assert_close(ours(x, mask)[mask], theirs(x, src_key_padding_mask=~mask)[mask], rtol=1e-4, atol=1e-4)


def test_decoder_layer_is_torchs():
    ours = DecoderLayer(D, HEADS, 20, dropout=0.3).eval()
    theirs = nn.TransformerDecoderLayer(D, HEADS, 20, batch_first=True, norm_first=True).eval()
    randomise(ours)
    copy_layer(ours, theirs)
    to_torch(ours.cross, theirs.multihead_attn)
    x, memory, mask = torch.randn(B, T, D), torch.randn(B, S, D), ragged(B, S)
    found = ours(x, ours.cross.keys(memory), mask, None)[0]
    causal = nn.Transformer.generate_square_subsequent_mask(T)
    assert_close(found, theirs(x, memory, causal, memory_key_padding_mask=~mask), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pieces", [(1, 1, 1, 1), (1, 2, 1), (3, 1)])
def test_the_decoder_in_pieces_with_a_cache_is_the_decoder_at_once(pieces):
    decoder = Decoder(D, HEADS, 20, layers=2, dropout=0.3).eval()
    randomise(decoder)
    x, keys, mask = torch.randn(B, T, D), decoder.memory_keys(torch.randn(B, S, D)), ragged(B, S)
    whole, past, found = decoder(x, keys, mask)[:3], None, []
    for piece in x.split(pieces, 1):
        *out, past = decoder(piece, keys, mask, past)
        found.append(out)
    assert_close([torch.cat(parts, 1) for parts in zip(*found, strict=True)], list(whole))


@pytest.mark.parametrize("width", [6, 7])
def test_positions_are_the_papers_sinusoids(width):
    expected = [
        [(math.cos if i % 2 else math.sin)(place / 10_000 ** ((i - i % 2) / width)) for i in range(width)]
        for place in range(3, 8)
    ]
    assert_close(positions(5, width, start=3), torch.tensor(expected), rtol=1e-4, atol=1e-5)
