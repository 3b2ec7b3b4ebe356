"""From images to probability maps, detections, and the files that hold them."""

from utils.predict.maps import load_model, predict, predict_split, predict_tiles

__all__ = ["load_model", "predict", "predict_split", "predict_tiles"]
