"""What the parts promise each other: pydantic models, Arrow schemas and the exception tree."""
