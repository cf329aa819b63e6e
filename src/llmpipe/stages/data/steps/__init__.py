"""What may happen to a document: one step a file, in the table of `table.py`."""
