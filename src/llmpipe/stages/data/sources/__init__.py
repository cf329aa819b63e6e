"""Reading documents from WARC, ARC, WET, HTML, Parquet, JSONL and Hugging Face datasets."""
