"""The laboratory: exercises in manual backprop, and a checker that names the first wrong line.

`check` compares an answer with the solution, finds the first line that is wrong and what the
mistake probably is; `plant` makes wrong answers to be found. The command is
``python -m miniattn lab``. Nothing here needs a kernel: exercises are plain NumPy.
"""

from typing import TYPE_CHECKING

from miniattn import _lazy

if TYPE_CHECKING:  # imported at their first use
    from miniattn.lab._bugs import Bug, Score, plant, score
    from miniattn.lab._check import Place, Report, check
    from miniattn.lab._exercise import Exercise, exercises, find

__all__ = [
    "Bug",
    "Exercise",
    "Place",
    "Report",
    "Score",
    "check",
    "exercises",
    "find",
    "plant",
    "score",
]

if not TYPE_CHECKING:
    _HOMES = ("_exercise", "_check", "_bugs")
    __getattr__, __dir__ = _lazy.names(__name__, __all__, _HOMES)
