"""Attention by the vector registers: the unit to read first."""
