"""Corpora, text, labels and vectors: everything that is read, nothing that is learned."""
