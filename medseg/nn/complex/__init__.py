"""What complex-valued networks are made of: complex tensors in, complex tensors out."""
