"""Predicts probability maps and detections, and writes and reads their files."""

from utils.predict.maps import load_model, predict, predict_split, predict_tiles

__all__ = ["load_model", "predict", "predict_split", "predict_tiles"]
