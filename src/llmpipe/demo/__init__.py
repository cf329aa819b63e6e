"""What only the demo needs: a web site that is on every machine."""
