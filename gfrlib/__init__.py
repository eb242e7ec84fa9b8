"""The thin library under the feature-replay book: the paper, and three rooms."""

__version__ = "0.1.0"
