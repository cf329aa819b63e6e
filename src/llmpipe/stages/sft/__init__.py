"""The `sft` stage: base model + conversations -> chat model."""
