"""From features to scores: zero-shot and trained models, their branches, and which scores are kept."""
