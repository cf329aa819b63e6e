"""The pretrain stage: tokens -> base model."""
