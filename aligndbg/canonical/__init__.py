"""ONNX as the common language: a region of any runtime as a short ONNX program."""
