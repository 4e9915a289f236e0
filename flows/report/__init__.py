"""One run as a page, as an artifact of Prefect, and as JSON: the same figures in three forms."""
