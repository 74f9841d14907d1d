"""A small pre-norm transformer encoder that reads an image as a sequence of rows.

Its layers repeat exactly, as those of language models do; attention holds one packed input projection.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from npasbench.problem import Architecture

WIDTH, FEED_FORWARD, HEADS, LAYERS, MOST_LAYERS = 64, 128, 4, 4, 24


def row_transformer(*, classes: int, input_shape: tuple[int, ...]) -> Architecture:
    """The architecture ``row-transformer``: an image ``[channels, height, width]`` is ``height`` tokens, its rows.

    Its width setting multiplies the model width, rounded to a multiple of the heads, and the feed-forward width;
    its depths are 1 to 24 layers.
    """
    factory = functools.partial(_create, classes=classes, input_shape=input_shape)
    depths = tuple(range(1, MOST_LAYERS + 1))
    return Architecture("row-transformer", factory, scales=True, depth=LAYERS, depths=depths)


class RowTransformer(nn.Module):
    """Rows to tokens, learned positions, ``layers`` encoder layers, mean over tokens, norm, classifier.

    Positions are drawn with deviation 0.02; all other initial weights are torch's own for their layers.
    """

    def __init__(
        self, input_shape: tuple[int, ...], *, classes: int, width: int, feed_forward: int, layers: int
    ) -> None:
        super().__init__()
        channels, height, pixels = input_shape
        self.embedding = nn.Linear(channels * pixels, width)
        self.positions = nn.Parameter(torch.randn(height, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, feed_forward) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[batch, channels, height, width] -> [batch, classes]``."""
        rows = inputs.transpose(1, 2).flatten(2)  # [batch, height, channels * width]
        tokens: Tensor = self.embedding(rows) + self.positions
        for layer in self.layers:
            tokens = layer(tokens)
        logits: Tensor = self.classifier(self.norm(tokens.mean(dim=1)))
        return logits


class Layer(nn.Module):
    """A pre-norm encoder layer with the parameters of ``nn.TransformerEncoderLayer``, without dropout.

    Torch's own layer and ``nn.MultiheadAttention`` take another road in evaluation, whose results differ in their
    last bits from those with gradients; here both modes compute the same.
    """

    def __init__(self, width: int, feed_forward: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, feed_forward)
        self.linear2 = nn.Linear(feed_forward, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[batch, tokens, width] -> [batch, tokens, width]``."""
        tokens = tokens + self._attend(self.norm1(tokens))
        fed: Tensor = self.linear2(F.relu(self.linear1(self.norm2(tokens))))
        return tokens + fed

    def _attend(self, tokens: Tensor) -> Tensor:
        packed = F.linear(tokens, self.attention.in_proj_weight, self.attention.in_proj_bias)
        # [batch, tokens, 3 * width] -> three of [batch, heads, tokens, width / heads]
        query, key, value = packed.view(*packed.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        attended: Tensor = self.attention.out_proj(mixed.transpose(1, 2).flatten(2))
        return attended


def _create(*, classes: int, input_shape: tuple[int, ...], width: float = 1.0, depth: int = LAYERS) -> RowTransformer:
    model = HEADS * max(1, round(WIDTH * width / HEADS))
    feed_forward = max(1, round(FEED_FORWARD * width))
    return RowTransformer(input_shape, classes=classes, width=model, feed_forward=feed_forward, layers=depth)
