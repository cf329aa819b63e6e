"""From web archives and other files to a clean corpus, with an account of every document."""
