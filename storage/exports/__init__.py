"""Chosen samples, handed over: as shards of their own, or as a file of their labels."""
