"""Figures of attention: matplotlib, and one self-contained HTML page.

Arrays in; a Figure out, or the Axes that were given. No window is opened and no backend chosen.
"""

from typing import TYPE_CHECKING

from miniattn import _lazy

if TYPE_CHECKING:  # imported at their first use, and matplotlib with them
    from miniattn.plot._animation import Recorder, animate
    from miniattn.plot._backprop import backprop
    from miniattn.plot._canvas import Figure
    from miniattn.plot._flow import gradient_flow
    from miniattn.plot._gradient import gradient_map
    from miniattn.plot._history import history
    from miniattn.plot._html import html
    from miniattn.plot._image import attention_on_image
    from miniattn.plot._layers import attention_layers, head_summary
    from miniattn.plot._lines import attention_lines
    from miniattn.plot._maps import attention_heads, attention_map
    from miniattn.plot._mask import mask
    from miniattn.plot._page import Page
    from miniattn.plot._softmax import masked_weights, temperatures
    from miniattn.plot._steps import attention_steps
    from miniattn.plot._stream import patching, residual_stream
    from miniattn.plot._timeline import timeline

__all__ = [
    "Figure",
    "Page",
    "Recorder",
    "animate",
    "attention_heads",
    "attention_layers",
    "attention_lines",
    "attention_map",
    "attention_on_image",
    "attention_steps",
    "backprop",
    "gradient_flow",
    "gradient_map",
    "head_summary",
    "history",
    "html",
    "mask",
    "masked_weights",
    "patching",
    "residual_stream",
    "temperatures",
    "timeline",
]

_HOMES = (
    "_animation",
    "_backprop",
    "_canvas",
    "_flow",
    "_gradient",
    "_history",
    "_html",
    "_image",
    "_layers",
    "_lines",
    "_maps",
    "_mask",
    "_page",
    "_softmax",
    "_steps",
    "_stream",
    "_timeline",
)

if not TYPE_CHECKING:  # else every misspelt name would be one to a type checker
    __getattr__, __dir__ = _lazy.names(__name__, __all__, _HOMES)
