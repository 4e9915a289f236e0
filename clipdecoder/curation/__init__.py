"""What helps to choose pictures: statistics of their pixels, and which of them are nearly the same."""
