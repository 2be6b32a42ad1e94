"""InterNeg for applications: a detector for images from anywhere, with a state on disk."""
