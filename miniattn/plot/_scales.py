"""What is drawn and how it becomes colours, by name: what the command line knows before that."""

from typing import Literal

Scale = Literal["linear", "log", "row"]
SCALES: tuple[Scale, ...] = ("linear", "log", "row")

Value = Literal["weights", "gradient", "weights*gradient"]
VALUES: tuple[Value, ...] = ("weights", "gradient", "weights*gradient")
