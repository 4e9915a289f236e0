"""A search over stored embeddings: what is looked for, and the page of what was found."""
