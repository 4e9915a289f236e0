"""Scripts that measure. Every number in a document comes from one of them."""
