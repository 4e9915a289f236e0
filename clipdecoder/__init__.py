"""What the model computes: image bytes and texts in, embeddings and scores out. No URLs, no Parquet, no Prefect.

Importing the package imports no torch; `model`, `transforms`, `text` and `open_clip_models` do.
"""
