"""Text in, text out: conversations as token sequences, tools, and streamed replies."""
