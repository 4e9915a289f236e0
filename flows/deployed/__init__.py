"""What runs by itself: the Prefect flows behind `prefect.yaml`, the events between them, and how they are deployed."""
