"""Attention, fused: scores of one tile at a time, never a T x S array.

Read `problem` (what a call tells its kernels), `masking` (which keys a query sees), `scores` (what
becomes of a product q·k) and `online` (softmax as tiles come in), then `vector`, which uses them.
`units` lists who computes a call.
"""
