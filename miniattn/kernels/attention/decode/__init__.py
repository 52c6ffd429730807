"""Attention of very few queries, where reading keys and values is the work."""
