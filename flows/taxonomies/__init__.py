"""A changed taxonomy: what it changes, what that costs, and what is said of it."""
