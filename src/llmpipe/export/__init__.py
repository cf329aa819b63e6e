"""Models out of llmpipe in the formats that other programs run, and models of others in."""
