"""Retraining: the evidence, the decision, the training, the gates, and what is said of them."""
