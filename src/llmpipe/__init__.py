"""llmpipe: from a crawl of the web to an assistant one can talk to."""

__version__ = "0.1.0"
