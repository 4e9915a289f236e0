"""A tagging or backfill run: what it will do, its pipeline over shards, and what it says at the end."""
