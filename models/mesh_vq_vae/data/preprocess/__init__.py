"""From motion data sets to tokenizer files."""
