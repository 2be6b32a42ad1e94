"""From files to stored features: benchmarks, images, class names, the store."""
