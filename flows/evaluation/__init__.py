"""A model judged on annotated images: the figures, and the page that shows them."""
