"""What both shells share and neither owns: the settings, the jobs in Redis, the bytes on disk or in S3, the doorbell.

Imports schemas, redis, obstore and kombu; never fastapi, torch, onnx or numpy.
"""
