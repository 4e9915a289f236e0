"""Readers of files that people keep annotations in: CSV, Parquet, COCO JSON, Label Studio JSON."""
