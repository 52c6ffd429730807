"""Modules and parameters, with every backward written by hand."""

from miniattn.nn._module import Module, Parameter

__all__ = ["Module", "Parameter"]
