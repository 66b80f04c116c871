"""TFLite models on LiteRT."""
