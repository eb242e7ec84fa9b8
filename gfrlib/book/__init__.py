"""What the chapters need: figures, words, widgets, claims, and the runner."""
