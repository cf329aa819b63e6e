"""What the training loops share, as plain functions over explicit state."""
