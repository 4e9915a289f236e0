"""Pictures and texts to vectors: backbones with their preprocessing, text encoders, and how they are found."""
