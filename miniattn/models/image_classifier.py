"""A vision transformer: it reads an image by patches and says which of N classes it is."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Unpack, get_args

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks, nn
from miniattn._context import context
from miniattn._memory import copy
from miniattn._typing import Array
from miniattn.models import _parts
from miniattn.nn import _init

Distillation = Literal["head", "token"]


@context
class ImageClassifierContext(NamedTuple):
    """What `ImageClassifier.backward` needs: the contexts of its parts."""

    embed: F.LinearContext
    positions: Any
    dropout: F.DropoutContext | None
    encoder: nn.TransformerEncoderContext
    head: F.LinearContext
    distillation_head: F.LinearContext | None


class ImageClassifier(nn.Module):
    """Cuts an image into patches, which attend to each other and to a class token: N logits.

    x = [class token, patches · weightᵀ + bias] + positions, then pre-norm layers; the logits are
    head(x[0]). Patches go row by row, as the keys of an attention map do.

    Parameters
    ----------
    num_classes : int
        N.
    image_size, patch_size : int or (int, int)
        Height and width in pixels; the patch divides the image.
    channels : int
        C, 3 for colours.
    embed_dim, num_heads, num_layers : int
        Width E, heads H, and the number of encoder layers.
    ffn_dim : int, optional
        Width F of the feed-forward; 4 E by default.
    distillation : {"head", "token"}, optional
        Has one more token, for what a teacher says [2]_: with "head" it has a head of its own,
        and the logits are the mean of both; with "token" no head reads it.
    activation
        As in `nn.TransformerEncoderLayer`.
    dropout : float
        On the embedded patches and as in `nn.TransformerEncoderLayer`; applied where ``rng`` is
        given to ``forward``.
    rng : numpy.random.Generator, optional
        Draws the weights; None is a fresh unseeded one.
    dtype : float32 or float64
    **layers
        More options of the layers, as in `nn.TransformerEncoder`: norm_eps, qk_norm and the others.

    Attributes
    ----------
    class_token, distillation_token : Parameter, shape (E,)
        Start as N(0, 0.02²); the second is None without ``distillation``.
    grid : (int, int)
        Patches from top to bottom, and from left to right.

    References
    ----------
    .. [1] Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition
       at Scale", ICLR 2021, section 3.1.
    .. [2] Touvron et al., "Training data-efficient image transformers & distillation through
       attention", ICML 2021, section 4.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import models
    >>> rng = np.random.default_rng(0)
    >>> model = models.ImageClassifier(10, 8, 4, channels=1, embed_dim=16, num_heads=2, rng=rng)
    >>> images = rng.standard_normal((3, 1, 8, 8), dtype=np.float32)
    >>> logits, ctx = model.forward(images)
    >>> model.backward(np.ones_like(logits), ctx).shape
    (3, 1, 8, 8)
    >>> logits.shape, model.grid
    ((3, 10), (2, 2))
    """

    _worked_out = ("ffn_dim",)

    def __init__(
        self,
        num_classes: int,
        image_size: int | tuple[int, int],
        patch_size: int | tuple[int, int],
        *,
        channels: int = 3,
        embed_dim: int = 64,
        num_heads: int = 4,
        num_layers: int = 2,
        ffn_dim: int | None = None,
        distillation: Distillation | None = None,
        activation: nn.FeedForwardName = "gelu",
        dropout: float = 0.0,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
        **layers: Unpack[_parts.LayerOptions],
    ) -> None:
        rng = _parts.generator(rng)
        same: dict[str, Any] = {"rng": rng, "dtype": dtype}
        _checks.sizes(num_classes=num_classes, channels=channels, embed_dim=embed_dim)
        if distillation is not None:
            _checks.choice("distillation", distillation, get_args(Distillation))
        self.channels = channels
        self.patch = _pair("patch_size", patch_size)
        self.grid = _grid(_pair("image_size", image_size), self.patch)
        self.embed = nn.Linear(channels * self.patch[0] * self.patch[1], embed_dim, **same)
        self.class_token = nn.Parameter(_init.normal(rng, (embed_dim,), 0.02, dtype))
        self.distillation_token = self.distillation_head = None
        if distillation is not None:
            self.distillation_token = nn.Parameter(_init.normal(rng, (embed_dim,), 0.02, dtype))
        length = self.grid[0] * self.grid[1] + len(self._tokens())
        self.positions = nn.LearnedPositions(length, embed_dim, **same)
        self.dropout = nn.Dropout(_checks.probability("dropout", dropout))
        self.encoder = nn.TransformerEncoder(
            num_layers,
            embed_dim,
            num_heads,
            ffn_dim=ffn_dim,
            activation=activation,
            dropout=dropout,
            **same,
            **layers,
        )
        self.head = nn.Linear(embed_dim, num_classes, **same)
        if distillation == "head":
            self.distillation_head = nn.Linear(embed_dim, num_classes, **same)

    def forward(
        self, images: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, ImageClassifierContext]:
        """Return (logits, ctx).

        Parameters
        ----------
        images : float array (B, C, height, width)
        rng : numpy.random.Generator, optional
            Given, dropout is applied.

        Returns
        -------
        logits : (B, N)
        ctx : ImageClassifierContext
        """
        patches, embed = self.embed.forward(self._cut(self._checked(images)))
        rows = [
            np.broadcast_to(token.data, (len(patches), 1, token.size)) for token in self._tokens()
        ]
        x, positions = self.positions.forward(np.concatenate([*rows, patches], axis=1))
        x, dropout = self.dropout.drop(x, rng)
        x, encoder = self.encoder.forward(x, rng=rng)
        logits, head = self.head.forward(copy(x[:, 0]))
        taught = None
        if self.distillation_head is not None:
            more, taught = self.distillation_head.forward(copy(x[:, 1]))
            logits = (logits + more) / 2
        return logits, ImageClassifierContext(embed, positions, dropout, encoder, head, taught)

    def backward(self, dlogits: Array, ctx: ImageClassifierContext) -> Array:
        """Return dimages (B, C, height, width)."""
        ctx = _checks.context(ctx, ImageClassifierContext)
        tokens = self._tokens()
        count = self.grid[0] * self.grid[1] + len(tokens)
        with _checks.renamed(dy="dlogits"):
            # logits = (head(x[:, 0]) + distillation_head(x[:, 1])) / 2, or head(x[:, 0])
            if self.distillation_head is not None and ctx.distillation_head is not None:
                dlogits = dlogits / 2
                dtaught = self.distillation_head.backward(dlogits, ctx.distillation_head)
            dclass = self.head.backward(dlogits, ctx.head)
        dx = np.zeros((len(dclass), count, dclass.shape[1]), dclass.dtype)
        dx[:, 0] = dclass
        if self.distillation_head is not None:
            dx[:, 1] = dtaught
        # x = encoder(dropout(x + positions))
        dx = self.dropout.undrop(self.encoder.backward(dx, ctx.encoder), ctx.dropout)
        dx = self.positions.backward(dx, ctx.positions)
        # x = [tokens, embed(patches)]
        for i, token in enumerate(tokens):
            token.accumulate(dx[:, i].sum(axis=0) if token.trainable else None)
        return self._joined(self.embed.backward(copy(dx[:, len(tokens) :]), ctx.embed))

    def describe(self) -> str:
        """Return e.g. ``"10 classes, 14 x 14 patches"``."""
        return "{} classes, {} x {} patches".format(self.head.weight.shape[0], *self.grid)

    def _tokens(self) -> list[nn.Parameter]:
        """Return the tokens that are no patches."""
        both = (self.class_token, self.distillation_token)
        return [token for token in both if token is not None]

    def _checked(self, images: Array) -> Array:
        images = _checks.float_array("images", images)
        _checks.like("images", images, self.embed.weight.dtype, "the model's parameters")
        height, width = (n * p for n, p in zip(self.grid, self.patch, strict=True))
        sizes = {"C": self.channels, "height": height, "width": width}
        _checks.shape("images", images, "B, C, height, width", sizes)
        return images

    def _cut(self, images: Array) -> Array:
        """Return the patches (B, rows · columns, C · height · width of a patch) of images."""
        (rows, columns), (height, width) = self.grid, self.patch
        x = images.reshape(len(images), self.channels, rows, height, columns, width)
        return x.transpose(0, 2, 4, 1, 3, 5).reshape(len(images), rows * columns, -1)

    def _joined(self, patches: Array) -> Array:
        """Return the images (B, C, height, width) of patches."""
        (rows, columns), (height, width) = self.grid, self.patch
        x = patches.reshape(len(patches), rows, columns, self.channels, height, width)
        x = x.transpose(0, 3, 1, 4, 2, 5)
        return x.reshape(len(patches), self.channels, rows * height, columns * width)


def _pair(name: str, size: object) -> tuple[int, int]:
    """Return a size in pixels as (height, width)."""
    if isinstance(size, tuple | list):
        if len(size) != 2:
            raise ValueError(f"{name}: expected an int or (height, width), got {size!r}")
        height, width = size
    else:
        height = width = size
    return _checks.integer(name, height, least=1), _checks.integer(name, width, least=1)


def _grid(image: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
    """Return how many patches an image has, down and across."""
    if image[0] % patch[0] or image[1] % patch[1]:
        raise ValueError(f"patch_size: expected divisors of image_size = {image}, got {patch}")
    return image[0] // patch[0], image[1] // patch[1]
