"""Which calls the code of a TorchScript archive may make.

The operators that the exporter has an ONNX form for at opset 17, and what scripted code needs beside them: arithmetic
of sizes, lists, dictionaries and texts. A call that is not here is refused before anything is loaded: either it could
not be exported, or it does what no model needs to do (`from_file`, `save`, `fork`, custom classes).
"""

_OPERATORS = """
    _conj _convolution _convolution_mode _dim_arange _floor_divide _log_softmax _native_multi_head_attention
    _transformer_encoder_layer_fwd _pack_padded_sequence
    _pad_packed_sequence _reshape_from_tensor _set_item _shape_as_tensor _unique _unique2 _weight_norm abs acos
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d add addcmul addmm alias all alpha_dropout alpha_dropout_ amax amin aminmax any append
    arange argmax argmin argsort as_strided as_tensor asin atan atan2 atleast_1d atleast_2d atleast_3d
    avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bernoulli binary_cross_entropy_with_logits
    bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bmm broadcast_tensors broadcast_to bucketize
    cat cdist ceil celu chunk clamp clamp_max clamp_min clone conj_physical constant_pad_nd contiguous conv1d
    conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d convolution cos cosine_similarity
    cross cross_entropy_loss cumsum dequantize detach diagonal dim div dot dropout dropout_ einsum elu embedding
    embedding_bag empty empty_like eq erf exp expand expand_as eye fake_quantize_per_channel_affine
    fake_quantize_per_tensor_affine feature_alpha_dropout feature_alpha_dropout_ feature_dropout
    feature_dropout_ fill flatten flip floor floor_divide floordiv fmod frobenius_norm full full_like gather ge
    gelu get_pool_ceil_padding glu grid_sampler group_norm gru gt hann_window hardshrink hardsigmoid hardswish
    hardtanh hstack im2col index index_add index_copy index_fill index_put index_select insert instance_norm
    is_floating_point isfinite isinf isnan item kl_div layer_norm le leaky_relu len lerp lift linalg_cross
    linalg_det linalg_matrix_norm linalg_norm linalg_vector_norm linear linspace list log log10 log1p log2
    log_sigmoid log_softmax logdet logical_and logical_not logical_or logical_xor logit logsumexp lstm lstm_cell
    lt masked_fill masked_fill_ masked_scatter masked_select matmul max max_pool1d max_pool1d_with_indices
    max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices maximum mean meshgrid min minimum mish
    mm movedim mse_loss mul multinomial mv nan_to_num narrow native_dropout native_layer_norm ne neg new_empty
    new_full new_ones new_zeros nll_loss nll_loss2d nll_loss_nd nonzero nonzero_numpy norm normal numel one_hot
    ones ones_like outer pad pairwise_distance permute pixel_shuffle pixel_unshuffle pop pow prelu prod
    quantize_per_tensor rand rand_like randint randint_like randn randn_like reciprocal reflection_pad1d
    reflection_pad2d reflection_pad3d relu relu6 remainder repeat repeat_interleave replication_pad1d
    replication_pad2d replication_pad3d reshape reshape_as resolve_conj resolve_neg rnn_relu rnn_tanh roll round
    rms_norm rrelu rsqrt rsub scalar_tensor scaled_dot_product_attention scan scatter scatter_add scatter_reduce select
    selu sigmoid sign silu sin size slice softmax softplus softshrink sort split split_with_sizes sqrt square
    squeeze stack std std_mean stft sub sum t take tan tanh tanhshrink tensor tensor_split tensordot threshold
    tile to topk transpose tril triu true_divide type_as unbind unflatten unfold unique_dim unsafe_chunk
    unsafe_split unsafe_split_with_sizes unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d var var_mean view view_as
    vstack where zero zeros zeros_like
"""
OPERATORS = frozenset(_OPERATORS.split())

# What scripted code computes with sizes, lists, dictionaries and texts; the exporter folds it away.
_LANGUAGE = """
    Bool Float FloatImplicit Int IntImplicit Scalar ScalarImplicit __and__ __contains__ __derive_index
    __getitem__ __interpolate __is__ __isnot__ __lshift__ __not__ __or__ __range_length __rshift__ __xor__
    _set_item abs all any append ceil clear copy copy_ device divmod extend floor format get index insert
    is_autocast_enabled is_grad_enabled isdigit items join keys len list lower max min mod ord pop pow replace
    reverse round sorted
    str strip sum upper values warn
"""
LANGUAGE = frozenset(_LANGUAGE.split())

# In branches of torch's own functions that most models never take; a model that takes them cannot be exported.
_BRANCHES = """
    _nested_tensor_from_mask _nested_tensor_from_mask_left_aligned to_padded_tensor
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_lanczos2d_aa _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d
"""
BRANCHES = frozenset(_BRANCHES.split())

# ops.prim.*: properties of tensors, exceptions that a model raises about its inputs.
_PRIMITIVES = """
    NumToTensor RaiseException data device dtype is_cuda is_nested is_quantized is_sparse layout max min ndim
    rangelist requires_grad shape tolist type unchecked_unwrap_optional
"""
PRIMITIVES = frozenset(_PRIMITIVES.split())

# Functions of the language itself.
_BUILTINS = "annotate bool float getattr hasattr int isinstance len list max min range str uninitialized unchecked_cast"
BUILTINS = frozenset(_BUILTINS.split())

# What a compiled graph is made of, beside calls.
_STRUCTURE = """
    Constant ConstantChunk CreateObject DictConstruct GetAttr If ListConstruct ListUnpack Loop SetAttr
    TupleConstruct TupleIndex TupleSlice TupleUnpack Uninitialized isinstance min max unchecked_cast
"""
STRUCTURE = frozenset(f"prim::{name}" for name in _STRUCTURE.split())


def operator_allowed(name: str) -> bool:
    """Whether `torch.<name>` may be called; of an allowed operator also the form that writes into its input."""
    known = OPERATORS | LANGUAGE | BRANCHES
    return name in known or (name.endswith("_") and not name.startswith("__") and name[:-1] in OPERATORS)


def graph_node_allowed(kind: str) -> bool:
    """The same for a node of a compiled graph, whose calls are resolved."""
    space, _, name = kind.partition("::")
    if space == "aten":
        return operator_allowed(name)
    return kind in STRUCTURE or (space == "prim" and name in PRIMITIVES)
