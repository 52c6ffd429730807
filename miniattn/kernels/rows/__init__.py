"""Operations on rows: the softmax family, norms, losses, and the frame that they share."""
