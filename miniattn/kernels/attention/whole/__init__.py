"""Attention under other normalizers than softmax, with the scores of some queries held whole."""
