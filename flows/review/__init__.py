"""Review: which pictures are worth a person's time, the page that asks about them, and the answers brought back."""
