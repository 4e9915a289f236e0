"""The local page: look at pictures with their tags, try thresholds, ask, answer, export."""
