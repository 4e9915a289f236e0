"""Where bytes live: fsspec, tar shards, Parquet, DuckDB. No torch, no Prefect."""
