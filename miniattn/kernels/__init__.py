"""Numba kernels: validated arrays in, given buffers filled. They know nothing of the rest."""
