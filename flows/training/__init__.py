"""A training: what it will do, what it learns from, and what it says of the model."""
