"""Convolution blocks, one paper a file: Block(channels, *, ndim=2, ...) keeps the shape."""
