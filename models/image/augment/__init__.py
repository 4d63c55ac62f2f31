"""Random views of pictures: whole batches of tensors, on CPU and GPU by the same code."""
