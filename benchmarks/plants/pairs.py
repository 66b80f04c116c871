"""The pairs of models that the bench knows, by their paths in a folder."""

from __future__ import annotations

from plants.bench import PairOfModels

__all__ = ["BUNDLED", "SHARED"]

_YOLO, _UNET, _MOBILE = "yolo/x.npz", "unet/x.npz", "mobilenetv3_small/x.npz"
SHARED = (
    PairOfModels("yolo/model_ts.onnx", "yolo/o2t_float32.tflite", _YOLO),
    PairOfModels("yolo/model_dynamo.onnx", "yolo/o2t_dynamo_float32.tflite", _YOLO),
    PairOfModels("yolo/model_ts_raw.onnx", "yolo/litert_nchw.tflite", _YOLO),
    PairOfModels("yolo/model_dynamo_raw.onnx", "yolo/model_ts.onnx", _YOLO),
    PairOfModels("yolo/model_ts.onnx", "yolo/model_dynamo.onnx", _YOLO),
    PairOfModels("unet/model_ts.onnx", "unet/o2t_dynamo_float32.tflite", _UNET),
    PairOfModels("unet/model_dynamo.onnx", "unet/litert_nchw.tflite", _UNET),
    PairOfModels("unet/model_ts_raw.onnx", "unet/litert_nhwc.tflite", _UNET),
    PairOfModels("unet/model_dynamo_raw.onnx", "unet/model_dynamo.onnx", _UNET),
    PairOfModels("mobilenetv3_small/model_ts.onnx", "mobilenetv3_small/o2t_float32.tflite", _MOBILE),
    PairOfModels("yolo/model.pt2", "yolo/model_ts.onnx", _YOLO),
    PairOfModels("yolo/model.pt2", "yolo/o2t_float32.tflite", _YOLO),
    PairOfModels("yolo/model_dynamo.onnx", "yolo/model.pt2", _YOLO),
    PairOfModels("unet/model.pt2", "unet/model_dynamo.onnx", _UNET),
    PairOfModels("unet/model.pt2", "unet/litert_nchw.tflite", _UNET),
    PairOfModels("unet/model_ts_raw.onnx", "unet/model.pt2", _UNET),
    PairOfModels("dtln/model_1.onnx", "dtln/model_1.tflite"),
    PairOfModels("dtln/model_2.onnx", "dtln/model_2.tflite"),
    PairOfModels("mlperf_tiny/pretrainedResnet.tflite", "mlperf_tiny/pretrainedResnet.tflite"),
    PairOfModels("mlperf_tiny/vww_96_float.tflite", "mlperf_tiny/vww_96_float.tflite"),
    PairOfModels("handgesture/keypoint_classifier.tflite", "handgesture/keypoint_classifier.tflite"),
    PairOfModels("yolo/model_ts.onnx", "yolo/o2t_full_integer_quant.tflite", _YOLO, int8=True),
    PairOfModels("unet/model_dynamo.onnx", "unet/o2t_dynamo_full_integer_quant.tflite", _UNET, int8=True),
    PairOfModels(
        "mobilenetv3_small/model_ts.onnx", "mobilenetv3_small/o2t_full_integer_quant.tflite", _MOBILE, int8=True
    ),
    PairOfModels("mlperf_tiny/pretrainedResnet.tflite", "mlperf_tiny/pretrainedResnet_quant.tflite", int8=True),
    PairOfModels("mlperf_tiny/vww_96_float.tflite", "mlperf_tiny/vww_96_int8.tflite", int8=True),
)
BUNDLED = (
    PairOfModels("cnn.onnx", "cnn.tflite"),
    PairOfModels("cnn_opset_b.onnx", "cnn.tflite"),
    PairOfModels("cnn.onnx", "cnn_opset_b.onnx"),
    PairOfModels("attention.onnx", "attention.tflite"),
    PairOfModels("cnn.onnx", "cnn_int8.tflite", int8=True),
)
