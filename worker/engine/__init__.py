"""The pruning engine: numpy, torch, onnx and onnxruntime. Knows no web, no queue and no Redis; imports schemas only."""
