"""Where negative texts come from, and the text space that detectors are fitted to."""
