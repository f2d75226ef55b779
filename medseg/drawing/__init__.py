"""Pictures of what is found: contours on a radiograph, maps of the sky."""
