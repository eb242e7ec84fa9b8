"""The thin library under the feature-replay book: models, training loop and analysis of generative feature replay."""

__version__ = "0.1.0"
