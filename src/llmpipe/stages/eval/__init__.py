"""The `eval` stage: chat model -> scores."""
