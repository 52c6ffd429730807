"""Attention in plain loops, one query and one key at a time: slow, and right to be read first."""
