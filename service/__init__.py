"""The web shell: HTTP in front of the jobs, the bytes and the doorbell of `state`.

Imports schemas and state; never torch, onnx, onnxruntime or numpy.
"""
