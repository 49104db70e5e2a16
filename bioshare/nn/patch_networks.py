"""Small networks of patches, a vision transformer and an MLP-Mixer, made of `torch.nn.Linear` alone after the patches.

Every matrix is in a layer, so that `bioshare.nn.to_locally_connected` with ``linear=True`` reaches all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bioshare.checks import flag, shown, whole


class SelfAttention(nn.Module):
    """Multi-head softmax attention with a linear layer each for queries, keys, values and the projection.

    Over equal tokens the attention is the value, so that the output is project(value(x)), whatever the queries and
    keys. `torch.nn.MultiheadAttention` computes the same function, but has three of these matrices in a parameter, and
    not in a layer that could be replaced.

    Args:
        features: D, number of features of a token.
        heads: number of heads, a divisor of D.

    Example:
        >>> SelfAttention(8, heads=2)(torch.ones(1, 16, 8)).shape
        torch.Size([1, 16, 8])
    """

    def __init__(self, features: int, heads: int = 4) -> None:
        super().__init__()
        features = whole("features", features, "a number of features", at_least=1)
        self.heads = whole("heads", heads, "a number of heads", at_least=1)
        if features % heads:
            raise ValueError(f"heads must divide the {features} features; got {heads}")
        self.query, self.key, self.value, self.project = (nn.Linear(features, features) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (batch, N, D) to tokens (batch, N, D)."""
        # one head: (batch, heads, N, D / heads)
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        # softmax(q k^T / sqrt(D / heads)) v
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.project(attended.transpose(1, 2).flatten(2))  # heads next to each other: (batch, N, D)


class _MLP(nn.Sequential):
    """Two linear layers with a GELU in between."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__(nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, features))


class TransformerBlock(nn.Module):
    """A pre-norm block (Dosovitskiy 2020): x + attention(norm(x)), then x + mlp(norm(x)), with 4 D hidden features."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(features), SelfAttention(features, heads)
        self.norm2, self.mlp = nn.LayerNorm(features), _MLP(features, 4 * features)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (batch, N, D) to tokens (batch, N, D)."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class MixerBlock(nn.Module):
    """A block of an MLP-Mixer (Tolstikhin 2021): an MLP over tokens, then an MLP over features.

    The first MLP has the same weights for all features, and D / 2 hidden units; the second the same weights for all
    tokens, and 4 D hidden units.
    """

    def __init__(self, tokens: int, features: int) -> None:
        super().__init__()
        self.norm1, self.mix_tokens = nn.LayerNorm(features), _MLP(tokens, max(1, features // 2))
        self.norm2, self.mix_features = nn.LayerNorm(features), _MLP(features, 4 * features)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (batch, N, D) to tokens (batch, N, D)."""
        x = x + self.mix_tokens(self.norm1(x).mT).mT
        return x + self.mix_features(self.norm2(x))


class PatchNetwork(nn.Module):
    """Base of `VisionTransformer` and `MLPMixer`: patches, blocks, a norm, the mean over tokens, a classifier.

    Attributes:
        input_size: (channels, rows, columns) of an image.
        tokens: number of patches.
        embed: a convolution with kernel and stride of the size of a patch.
        blocks: the blocks, from input to output.
        norm, classifier: the last layers; the classifier is shared by construction, since it sees one vector.
    """

    def __init__(self, input_size: tuple[int, int, int], patch: int, features: int, num_classes: int) -> None:
        super().__init__()
        if not isinstance(input_size, tuple | list) or len(input_size) != 3:
            raise TypeError(f"input_size must be (channels, rows, columns); got {shown(input_size)}")
        channels, *sides = (whole("input_size", n, "(channels, rows, columns)", at_least=1) for n in input_size)
        patch = whole("patch", patch, "a number of pixels", at_least=1)
        features = whole("features", features, "a number of features", at_least=1)
        num_classes = whole("num_classes", num_classes, "a number of classes", at_least=1)
        if any(side % patch for side in sides):
            raise ValueError(f"patch must divide the rows and columns of input_size={tuple(input_size)}; got {patch}")
        self.input_size: tuple[int, ...] = channels, *sides
        self.tokens = sides[0] // patch * (sides[1] // patch)
        self.embed = nn.Conv2d(channels, features, patch, patch)
        self.blocks = nn.Sequential()
        self.norm, self.classifier = nn.LayerNorm(features), nn.Linear(features, num_classes)

    def embedded(self, x: Tensor) -> Tensor:
        """Return the tokens (batch, N, D) of the first block for images (batch, channels, rows, columns)."""
        return self.embed(checked_images(x, self.input_size)).flatten(2).mT

    def forward(self, x: Tensor) -> Tensor:
        """Map images (batch, channels, rows, columns) to scores (batch, num_classes).

        Raises:
            ValueError: the images have another size than ``input_size``.
        """
        return self.classifier(self.norm(self.blocks(self.embedded(x))).mean(1))


@torch.fx.wrap  # a single step in the graphs of torch.fx, since a tracer has no sizes to check
def checked_images(x: Tensor, input_size: tuple[int, ...]) -> Tensor:
    """Return images (batch, channels, rows, columns) after a check of their size."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor; got {type(x).__name__}")
    if x.ndim != 4 or tuple(x.shape[1:]) != input_size:
        raise ValueError(
            f"x must have the shape (batch, {', '.join(map(str, input_size))}), the input_size of this network of "
            f"patches; got {tuple(x.shape)}"
        )
    return x


class VisionTransformer(PatchNetwork):
    """A small vision transformer with learnt position embeddings, averaged over tokens before the classifier.

    Args:
        num_classes: number of scores.
        input_size: (channels, rows, columns) of an image.
        patch: rows and columns of a patch.
        features: D, features of a token.
        depth: number of blocks.
        heads: number of heads of every attention.
        class_token: True for a learnt first token, from which the classifier reads in place of the mean.

    Raises:
        TypeError, ValueError: an argument makes no sense.

    Example:
        >>> VisionTransformer(input_size=(1, 8, 8), patch=2, features=32)(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        num_classes: int = 10,
        input_size: tuple[int, int, int] = (3, 32, 32),
        patch: int = 4,
        features: int = 64,
        depth: int = 2,
        heads: int = 4,
        class_token: bool = False,
    ) -> None:
        super().__init__(input_size, patch, features, num_classes)
        flag("class_token", class_token)
        for _ in range(whole("depth", depth, "a number of blocks", at_least=1)):
            self.blocks.append(TransformerBlock(features, heads))
        self.class_token = nn.Parameter(torch.zeros(1, 1, features)) if class_token else None
        self.position = nn.Parameter(0.02 * torch.randn(1, self.tokens + class_token, features))

    def embedded(self, x: Tensor) -> Tensor:
        """Return the tokens (batch, N, D) of the first block, the class token first."""
        tokens = super().embedded(x)
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], 1)
        return tokens + self.position

    def forward(self, x: Tensor) -> Tensor:
        """Map images (batch, channels, rows, columns) to scores (batch, num_classes)."""
        if self.class_token is None:
            return super().forward(x)
        return self.classifier(self.norm(self.blocks(self.embedded(x)))[:, 0])


class MLPMixer(PatchNetwork):
    """A small MLP-Mixer: token-mixing layers have the same weights for all features, all others for all tokens.

    Args:
        num_classes, input_size, patch, features, depth: as for `VisionTransformer`.

    Raises:
        TypeError, ValueError: an argument makes no sense.

    Example:
        >>> MLPMixer(input_size=(1, 8, 8), patch=2, features=32)(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        num_classes: int = 10,
        input_size: tuple[int, int, int] = (3, 32, 32),
        patch: int = 4,
        features: int = 64,
        depth: int = 2,
    ) -> None:
        super().__init__(input_size, patch, features, num_classes)
        for _ in range(whole("depth", depth, "a number of blocks", at_least=1)):
            self.blocks.append(MixerBlock(self.tokens, features))
