"""The transformer: token ids in, logits out. Knows no text and no tokenizer."""
