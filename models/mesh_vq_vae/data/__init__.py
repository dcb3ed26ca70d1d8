"""Data of the mesh tokenizer."""
