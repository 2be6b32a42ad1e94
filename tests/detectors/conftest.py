"""Fixtures that several tests of detectors use."""

from memory_helpers import space, stream
from static_helpers import corpus_file, image_space, image_stream
from trained_helpers import backbone, prompt_space, source, words

__all__ = [
    "backbone",
    "corpus_file",
    "image_space",
    "image_stream",
    "prompt_space",
    "source",
    "space",
    "stream",
    "words",
]
