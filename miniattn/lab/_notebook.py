"""Notebooks as they lie in a file (nbformat 4.5), written without a library."""

import json
from collections.abc import Sequence
from typing import Any

Cell = dict[str, Any]


def notebook(cells: Sequence[Cell], **metadata: Any) -> str:
    """Return the text of a notebook of these cells."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = {
        "cells": [{**cell, "id": f"cell-{number}"} for number, cell in enumerate(cells)],
        "metadata": {"kernelspec": kernel, **metadata},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1) + "\n"


def markdown(source: str) -> Cell:
    """Return a cell of text."""
    return {"cell_type": "markdown", "metadata": {}, "source": source.splitlines(keepends=True)}


def code(source: str) -> Cell:
    """Return a cell of code that was not run."""
    shown = markdown(source.strip())
    return {**shown, "cell_type": "code", "execution_count": None, "outputs": []}
