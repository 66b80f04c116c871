"""TensorFlow: SavedModels, frozen graphs, Keras files, and live models and functions."""
