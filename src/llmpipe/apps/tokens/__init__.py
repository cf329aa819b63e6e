"""What the model sees: text as tokens, in the terminal and on a page."""
