"""Networks and classical methods: one a file, tensors in, tensors out."""
