"""Operations on arrays, in pairs: ``y, ctx = op_forward(x)`` and ``dx = op_backward(dy, ctx)``."""
