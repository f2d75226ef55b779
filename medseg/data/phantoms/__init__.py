"""Seeded generators of labelled data, one a domain."""
