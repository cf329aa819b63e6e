"""Crawl: seed URLs -> WARC files, politely."""
