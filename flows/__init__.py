"""When things run: the command line, the Prefect flows, and the plain functions they call."""
