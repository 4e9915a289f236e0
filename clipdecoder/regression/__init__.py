"""The closed-form branch: from embeddings to labels by way of their texts."""
