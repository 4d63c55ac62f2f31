"""What methods over text are made of: packed rows, masked tokens, the vocabulary."""
