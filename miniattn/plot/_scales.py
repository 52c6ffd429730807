"""How numbers become colours, by name: what the command line knows before anything is drawn."""

from typing import Literal

Scale = Literal["linear", "log", "row"]
SCALES: tuple[Scale, ...] = ("linear", "log", "row")
