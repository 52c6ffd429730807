"""Figures of attention: matplotlib, and one self-contained HTML page.

Arrays in; a Figure out, or the Axes that were given. No window is opened and no backend chosen.
"""

from miniattn.plot._canvas import Figure
from miniattn.plot._history import history
from miniattn.plot._image import attention_on_image
from miniattn.plot._maps import attention_heads, attention_map

__all__ = ["Figure", "attention_heads", "attention_map", "attention_on_image", "history"]
