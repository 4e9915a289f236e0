"""From annotated images to a model: the loop, its losses, and the two stages around it."""
