"""The decoder: ML-Decoder with text queries, and its form with label groups."""
