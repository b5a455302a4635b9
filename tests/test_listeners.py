"""The stacked listeners against separate decoder layers with the same weights, one by one."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from rd.blocks.listeners import Listeners, MetaDecoder
from rd.blocks.transformer import DecoderLayer

COUNT, WIDTH, HEADS, HIDDEN = 3, 8, 2, 5  # depth = width: only then is a `DecoderLayer` of the same size
MASK = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])


@pytest.fixture
def given() -> tuple[Listeners, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Listeners, words (B, T, D), memory (B, S, D), shares (B, K)."""
    listeners = Listeners(COUNT, WIDTH, HEADS, WIDTH, HIDDEN, 0.0)
    return listeners, torch.randn(2, 4, WIDTH), torch.randn(2, 6, WIDTH), torch.rand(2, COUNT)


def put(layer: nn.Linear, weight: torch.Tensor, bias: torch.Tensor) -> None:
    layer.weight.data, layer.bias.data = weight.detach().clone(), bias.detach().clone()


def alone(listeners: Listeners, i: int) -> DecoderLayer:
    """Listener i as a decoder layer of its own."""
    layer, own = DecoderLayer(WIDTH, HEADS, HIDDEN, 0.0), slice(i * WIDTH, (i + 1) * WIDTH)
    weight, bias = listeners.attend.weight.view(3, -1, WIDTH)[:, own], listeners.attend.bias.view(3, -1)[:, own]
    put(layer.attend.query, weight[0], bias[0])
    put(layer.attend.key_value, weight[1:].flatten(0, 1), bias[1:].flatten())
    weight, bias = listeners.key_value.weight.view(2, -1, WIDTH)[:, own], listeners.key_value.bias.view(2, -1)[:, own]
    put(layer.cross.key_value, weight.flatten(0, 1), bias.flatten())
    pairs = [
        (layer.attend.output, listeners.attended),
        (layer.cross.query, listeners.query),
        (layer.cross.output, listeners.read),
        (layer.feed[0], listeners.think),
        (layer.feed[3], listeners.say),
    ]
    for linear, stacked in pairs:
        put(linear, stacked.weight[i].T, stacked.bias[i, 0])
    return layer


def heard(listeners: Listeners, i: int, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """V_i (B, T, D), by the layer."""
    layer = alone(listeners, i)
    return layer(x, layer.cross.keys(memory), MASK, None)[0]


@torch.no_grad()
def test_the_mixture_is_that_of_separate_layers(given):
    listeners, x, memory, shares = given
    found, _ = listeners(x, listeners.keys(memory), MASK, shares, None)
    by_hand = sum(shares[:, i, None, None] * heard(listeners, i, x, memory) for i in range(COUNT))
    assert_close(found, by_hand)


@torch.no_grad()
def test_inner_widths_are_free_and_listeners_do_not_mix(given):
    """Noise in the weights of one listener: only its own share of the mixture moves."""
    _, x, memory, _ = given
    listeners = Listeners(COUNT, WIDTH, HEADS, 6, HIDDEN, 0.0)

    def each() -> list[torch.Tensor]:
        keys = listeners.keys(memory)
        return [listeners(x, keys, MASK, row.expand(2, -1), None)[0] for row in torch.eye(COUNT)]

    before = each()
    for wide, parts in ((listeners.attend, 3), (listeners.key_value, 2)):
        wide.weight.view(parts, COUNT, 6, WIDTH)[:, 1].normal_()
    for stacked in (listeners.attended, listeners.query, listeners.read, listeners.think, listeners.say):
        stacked.weight[1].normal_()
    after = each()
    assert_close(after[0::2], before[0::2])
    assert not torch.allclose(after[1], before[1])


@torch.no_grad()
def test_with_one_emotion_the_meta_listener_reads_the_shared_listener_and_that_one(given):
    listeners, x, memory, _ = given
    meta = MetaDecoder(WIDTH, HEADS, 7, 2, 0.0, listeners)
    keys = meta.memory_keys(memory)
    for emotion in range(COUNT - 1):
        found = meta(x, keys, MASK, None, torch.eye(COUNT - 1)[emotion].expand(2, -1))
        y = heard(listeners, 0, x, memory) + heard(listeners, 1 + emotion, x, memory)
        for i, layer in enumerate(meta.layers):
            y, read, weights, _ = layer(y, keys[1 + i], MASK, None)
        assert_close(found[:3], (meta.norm(y), read, weights))


@torch.no_grad()
def test_cached_is_uncached(given):
    """Word by word, then in pieces of two: what the whole says at once."""
    listeners, x, memory, shares = given
    meta = MetaDecoder(WIDTH, HEADS, 7, 2, 0.0, listeners)
    keys, p = meta.memory_keys(memory), shares[:, 1:]
    whole = meta(x, keys, MASK, None, p)
    for size in (1, 2):
        past, said = None, []
        for piece in x.split(size, 1):
            *found, past = meta(piece, keys, MASK, past, p)
            said.append(found)
        assert_close([torch.cat(parts, 1) for parts in zip(*said, strict=True)], list(whole[:3]))
        assert_close(past, whole[3])


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="3 heads"):
        Listeners(COUNT, WIDTH, 3, WIDTH, HIDDEN, 0.0)
