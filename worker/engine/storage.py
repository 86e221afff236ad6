"""A model with zeros, stored sparsely: the numbers that are not zero and where they stand (`sparse_initializer`).

In: a model of ours, its shelf, and the names of the weights that hold zeros. Out: the same model in which each of them
is stored sparsely, where that is smaller. Refused: nothing. onnxruntime reads it and computes what it computes with the
dense one, densely.
"""

from collections.abc import Collection

import numpy as np
import onnx

from worker.engine.shelf import Shelf

SPARSE = "sparse.onnx"
INDEX_BYTES = 8


def sparsely(proto: onnx.ModelProto, shelf: Shelf, names: Collection[str]) -> onnx.ModelProto:
    """The same model, in place."""
    kept = []
    for tensor in proto.graph.initializer:
        array = shelf.array(tensor) if tensor.name in names else None
        if array is None or np.count_nonzero(array) * (array.itemsize + INDEX_BYTES) >= array.nbytes:
            kept.append(tensor)
            continue
        flat = array.reshape(-1)
        places = np.flatnonzero(flat)
        values = onnx.numpy_helper.from_array(flat[places], tensor.name)
        indices = onnx.numpy_helper.from_array(places.astype(np.int64))
        proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, array.shape))
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return proto


def densely(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The way back, in place: shape inference knows no sparse weights."""
    for sparse in proto.graph.sparse_initializer:
        values = onnx.numpy_helper.to_array(sparse.values)
        array = np.zeros(tuple(sparse.dims), values.dtype)
        array.reshape(-1)[onnx.numpy_helper.to_array(sparse.indices)] = values
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, sparse.values.name))
    del proto.graph.sparse_initializer[:]
    return proto
