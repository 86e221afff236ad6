"""How many units each group of the zoo has, sorted, however it was exported.

A smaller number means that something which could be pruned no longer is.
"""

Sizes = tuple[int, ...]

GROUPS: dict[str, Sizes] = {
    "plain_cnn": (6, 8, 10),
    "vgg_bn": (6, 6, 8, 10, 12),
    "resnet_basic": (6, 6, 10, 10, 10),
    "resnet_bottleneck": (4, 4, 4, 4, 6, 6, 6, 12, 16),
    "resnet_option_a": (6, 6, 6, 12, 12),
    "mobilenet_v2": (4, 6, 12, 12, 18),
    "shufflenet": (2, 2, 4, 4, 4, 10),
    "densenet": (4, 4, 4, 6, 7, 8, 8, 8),
    "inception": (4, 4, 4, 4, 4, 4, 6, 6, 6),
    "efficientnet": (4, 4, 6, 12, 12),
    "resnext": (2, 2, 4, 4, 6, 12),
    "convnext": (24, 24),
    "unet": (6, 6, 6, 8, 8, 8, 10),
    "yolo": (4, 4, 4, 8, 8),
    "yolo_decoded": (4, 4, 4, 4, 6, 6, 7, 7, 8, 8, 10, 10),
    "pixel_shuffle": (6, 8),
    "autoencoder": (6, 6, 8),
    "cnn_1d": (6, 8),
    "rnn": (6,),
    "lstm": (6,),
    "gru": (6,),
    "bi_lstm": (6,),
    "stacked_lstm": (6, 6),
    "stacked_bi_gru": (6, 6),
    "conv_lstm": (6, 8),
    "bert": (3, 3, 24, 24),
    "torch_encoder": (3, 3, 16, 16),
    "vit": (4, 4, 24, 24),
    "swin": (4, 10, 16),
    "gated_mlp": (12, 12),
    "mlp": (10, 12),
    "two_inputs": (6, 8, 10),
    "two_outputs": (4, 6, 8),
    "shared": (10,),
}

# With `lossy`, where statistics over units pin something without it.
LOSSY: dict[str, Sizes] = {
    "convnext": (6, 24, 24),
    "bert": (3, 3, 12, 24, 24),
    "torch_encoder": (3, 3, 12, 16, 16),
    "vit": (4, 4, 12, 24, 24),
    "swin": (4, 8, 10, 16),
}
