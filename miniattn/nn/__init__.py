"""Modules and parameters, with every backward written by hand."""
