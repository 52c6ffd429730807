"""A head's map as it learns: recorded during training, saved as a GIF or a film."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.animation import AbstractMovieWriter, FFMpegWriter, PillowWriter
from matplotlib.colors import Colormap
from numpy.typing import ArrayLike

from miniattn import _checks
from miniattn._typing import Array, MaskLike
from miniattn.nn import Module, MultiHeadAttention
from miniattn.plot import _grid
from miniattn.plot._canvas import Figure, panel_titles
from miniattn.plot._maps import one_map
from miniattn.plot._source import edges, layers, real
from miniattn.plot._text import Tokens
from miniattn.trace import attention_contexts
from miniattn.training import Callback, Trainer

MOST_CELLS = 256  # a side of a recorded map


def animate(
    maps: ArrayLike,
    path: str | PathLike[str],
    tokens: Tokens = None,
    key_tokens: Tokens = None,
    *,
    titles: Sequence[object] | None = None,
    fps: float = 8.0,
    hold: float = 1.0,
    dpi: float = 100.0,
    mask: MaskLike = None,
    scale: _grid.Scale = "linear",
    cmap: str | Colormap | None = None,
    vmax: float | None = None,
    extent: tuple[int, int] | None = None,
) -> Path:
    """Save maps as an animation, one after another on one colour scale.

    Parameters
    ----------
    maps : (N, T, S) array or sequence of N arrays (T, S)
        The frames, e.g. ``recorder.maps``.
    path : path
        Ends in ``.gif``, which always works, or in ``.mp4``, which takes ``ffmpeg``.
    tokens, key_tokens, mask, scale, cmap, vmax, extent
        As in `attention_map`.
    titles : sequence of N titles, optional
        By default "frame 0", "frame 1", ...
    fps : float, default 8
        Frames a second.
    hold : float, default 1
        Seconds that the last frame stays.
    dpi : float, default 100
        Pixels an inch.

    Returns
    -------
    pathlib.Path
        Where the animation is.

    Raises
    ------
    TypeError, ValueError
        As `attention_map`; also if there are no maps or the path ends otherwise.
    RuntimeError
        If the path ends in ``.mp4`` and there is no ``ffmpeg``.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import plot
    >>> maps = [np.eye(3) * t + (1 - t) / 3 for t in (0.0, 0.5, 1.0)]
    >>> plot.animate(maps, "learning.gif", ["a", "b", "c"]).name
    'learning.gif'
    """
    path = Path(path)
    writer = _writer(path, _checks.positive("fps", fps))
    _checks.choice("scale", scale, _grid.SCALES)
    frames = real("maps", maps, ["N, T, S"])
    if not len(frames):
        raise ValueError("maps: expected at least one map, got none")
    names = panel_titles(titles, len(frames), "frame")
    options: dict[str, Any] = {"mask": mask, "extent": extent}
    [given] = layers(frames, tokens=tokens, key_tokens=key_tokens, **options)
    panels = _grid.panels(given._replace(name="maps"), scale=scale, name="maps")
    norm = _grid.norm(panels, scale, vmax)
    longest = max(names, key=len)
    fig = one_map(given, panels, norm, None, scale, cmap, colorbar=True, title=longest)
    assert isinstance(fig, Figure)
    ax = fig.axes[0]
    fig.draw_without_rendering()
    fig.set_layout_engine("none")  # so that nothing moves from frame to frame
    with writer.saving(fig, str(path), dpi):
        for panel, name in zip(panels, names, strict=True):
            ax.images[0].set_data(_grid.shown(panel))
            ax.set_title(name)
            writer.grab_frame()
        for _ in range(round(_checks.number("hold", hold) * fps)):
            writer.grab_frame()
    return path


class Recorder(Callback):
    """Records the map of one head during training: a callback of `training.Trainer`.

    Parameters
    ----------
    *inputs : arrays
        What the model is called with for each record: a batch of fixed examples.
    layer : str, optional
        Path of the attention layer (``miniattn.trace.attention_contexts`` has them); by default
        the last.
    head, batch : int, default 0
        Which head and which of the examples.
    every : int >= 1, default 1
        Record after every so many steps.
    keywords : mapping, optional
        Further arguments of the model's ``forward``, such as ``lengths`` or ``mask``.

    Attributes
    ----------
    maps : list of (T, S) arrays
        What was recorded; longer maps are pooled to at most 256 cells a side.
    steps : list of int
        After how many steps.
    extent : (int, int)
        T and S before any pooling.

    Notes
    -----
    Each record is one more forward pass without dropout. What was recorded is part of the
    trainer's checkpoints. ``record(model, 0)`` before training records how it began.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn, plot
    >>> model = nn.TransformerEncoder(1, 8, 2, rng=np.random.default_rng(0))
    >>> recorder = plot.Recorder(np.ones((1, 3, 8), np.float32), head=1, every=10)
    >>> recorder.record(model, step=0)
    >>> recorder.maps[0].round(2)
    array([[0.33, 0.33, 0.33],
           [0.33, 0.33, 0.33],
           [0.33, 0.33, 0.33]], dtype=float32)
    >>> recorder.animate("head.gif", ["a", "b", "c"]).name
    'head.gif'
    """

    def __init__(
        self,
        *inputs: Any,
        layer: str | None = None,
        head: int = 0,
        batch: int = 0,
        every: int = 1,
        keywords: Mapping[str, Any] | None = None,
    ) -> None:
        self.inputs = inputs
        self.keywords = dict(keywords or {})
        self.layer = layer
        self.head = _checks.integer("head", head, least=0)
        self.batch = _checks.integer("batch", batch, least=0)
        self.every = _checks.integer("every", every, least=1)
        self.maps: list[Array] = []
        self.steps: list[int] = []
        self.extent = (0, 0)

    def on_step(self, trainer: Trainer) -> None:
        """Record after every so many steps."""
        if trainer.step % self.every == 0:
            self.record(trainer.model, trainer.step)

    def record(self, model: Module, step: int) -> None:
        """Record the map that the model has now."""
        _, ctx = model.forward(*self.inputs, **self.keywords)
        found = attention_contexts(ctx)
        layer = list(found)[-1] if self.layer is None and found else self.layer
        if not found:
            raise ValueError("model: expected a model with attention layers, found none")
        if layer not in found:
            raise ValueError(f"layer: expected one of {list(found)}, got {layer!r}")
        weights = MultiHeadAttention.weights(found[layer])
        for name, index, size in zip(
            ("batch", "head"), (self.batch, self.head), weights.shape[:2], strict=True
        ):
            if index >= size:
                raise ValueError(f"{name}: expected an index in [0, {size}), got {index}")
        head = weights[self.batch, self.head]
        self.extent = (head.shape[0], head.shape[1])
        self.maps.append(_averaged(head, MOST_CELLS))
        self.steps.append(step)

    def animate(self, path: str | PathLike[str], *tokens: Tokens, **options: Any) -> Path:
        """Save what was recorded: `animate`, with the steps as titles."""
        titles = [f"step {step:,}" for step in self.steps]
        return animate(self.maps, path, *tokens, titles=titles, extent=self.extent, **options)

    def state_dict(self) -> dict[str, Array]:
        """Return what was recorded."""
        if not self.maps:
            return {}
        return {
            "maps": np.stack(self.maps),
            "steps": np.array(self.steps, np.int64),
            "extent": np.array(self.extent, np.int64),
        }

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take back what was recorded."""
        self.maps = list(state["maps"]) if state else []
        self.steps = state["steps"].tolist() if state else []
        self.extent = (int(state["extent"][0]), int(state["extent"][1])) if state else (0, 0)


def _averaged(weights: Array, most: int) -> Array:
    """Return at most ``most`` cells a side: means over queries of sums over keys.

    This is what `miniattn.functional.attention_map` pools, and ``extent`` speaks of.
    """
    bounds = [edges(n, min(n, most)) for n in weights.shape]
    sums = np.add.reduceat(weights, bounds[1][:-1], axis=1)
    means: Array = np.add.reduceat(sums, bounds[0][:-1], axis=0) / np.diff(bounds[0])[:, None]
    return means.astype(weights.dtype)


def _writer(path: Path, fps: float) -> AbstractMovieWriter:
    if path.suffix == ".gif":
        return PillowWriter(fps=fps)  # type: ignore[arg-type]
    if path.suffix != ".mp4":
        raise ValueError(f"path: expected a name that ends in .gif or .mp4, got {path.name!r}")
    if not FFMpegWriter.isAvailable():
        raise RuntimeError("path: .mp4 takes the program ffmpeg, which is not there; use .gif")
    # Films in the usual colour format have an even number of pixels each way.
    even = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"]
    return FFMpegWriter(fps=fps, extra_args=even)  # type: ignore[arg-type]
