"""Small recurrent networks, transformers and networks of unusual shape (several inputs, outputs, shared weights)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Recurrent(nn.Module):
    """A recurrent layer, or several, and a classifier of its last step."""

    def __init__(self, core: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.core = core
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.core(x)[0][:, -1])
        return y


def rnn() -> nn.Module:
    return Recurrent(nn.RNN(4, 6, batch_first=True), 6)


def lstm() -> nn.Module:
    return Recurrent(nn.LSTM(4, 6, batch_first=True), 6)


def gru() -> nn.Module:
    return Recurrent(nn.GRU(4, 6, batch_first=True), 6)


def bi_lstm() -> nn.Module:
    return Recurrent(nn.LSTM(4, 6, batch_first=True, bidirectional=True), 12)


def stacked_lstm() -> nn.Module:
    return Recurrent(nn.LSTM(4, 6, num_layers=2, batch_first=True), 6)


def stacked_bi_gru() -> nn.Module:
    return Recurrent(nn.GRU(4, 6, num_layers=2, batch_first=True, bidirectional=True), 12)


class ConvLstm(nn.Module):
    """Speech: convolutions over time, an LSTM, an answer for every step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, padding=1)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps = F.relu(self.conv(x)).transpose(1, 2)
        y: Tensor = self.head(torch.tanh(self.lstm(steps)[0]))
        return y


class Attention(nn.Module):
    """Multi-head attention with one projection for queries, keys and values, as ViT and GPT write it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, steps, width = x.shape
        q, k, v = self.qkv(x).reshape(n, steps, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5, dim=-1)
        y: Tensor = self.out((weights @ v).transpose(1, 2).reshape(n, steps, width))
        return y


class Separate(nn.Module):
    """Multi-head attention with three projections, as BERT writes it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        weights = torch.softmax(q @ k.transpose(-2, -1) / 2.0, dim=-1)
        y: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
        return y


class Block(nn.Module):
    def __init__(self, attention: nn.Module, width: int) -> None:
        super().__init__()
        self.attention = attention
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Bert(nn.Module):
    """Tokens, learned positions, two blocks, a classifier of the first step."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(20, 12)
        self.positions = nn.Parameter(torch.randn(1, 6, 12))
        self.blocks = nn.Sequential(Block(Separate(12, 3), 12), Block(Separate(12, 3), 12))
        self.head = nn.Linear(12, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        y: Tensor = self.head(self.blocks(self.tokens(tokens) + self.positions)[:, 0])
        return y


class TorchEncoder(nn.Module):
    """torch's own TransformerEncoder, normalised after each sum."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(12, 3, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        for weights in self.encoder.layers[1].parameters():  # copies of the first until they are trained
            nn.init.normal_(weights, std=0.3)
        self.into, self.head = nn.Linear(4, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.encoder(self.into(x)).mean(dim=1))
        return y


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, 12))
        self.positions = nn.Parameter(torch.randn(1, 17, 12))
        self.blocks = nn.Sequential(Block(Attention(12, 3), 12), Block(Attention(12, 3), 12))
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.patches(x).flatten(2).transpose(1, 2)
        rows = torch.cat((self.cls.expand(rows.shape[0], -1, -1), rows), dim=1) + self.positions
        y: Tensor = self.head(self.norm(self.blocks(rows))[:, 0])
        return y


class Windows(nn.Module):
    """Attention inside windows of 2 x 2 that are shifted by one first, as in Swin."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = Block(Attention(width, 2), width)

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        x = torch.roll(x, (-1, -1), (1, 2))
        rows = x.view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        rows = self.block(rows).view(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5)
        return torch.roll(rows.reshape(n, h, w, c), (1, 1), (1, 2))


class Swin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.windows = Windows(8)
        self.merge = nn.Linear(32, 10, bias=False)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.windows(self.patches(x).permute(0, 2, 3, 1))
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        y: Tensor = self.head(self.merge(torch.cat(corners, dim=-1)).mean(dim=(1, 2)))
        return y


class GatedMlp(nn.Module):
    """Two SwiGLU blocks behind RMS normalisation, written out, as in Llama."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.head = nn.Linear(6, 8), nn.Linear(8, 5)
        self.scale = nn.Parameter(torch.rand(2, 8) + 0.5)
        self.gates = nn.ModuleList(nn.Linear(8, 12, bias=False) for _ in range(2))
        self.ups = nn.ModuleList(nn.Linear(8, 12, bias=False) for _ in range(2))
        self.downs = nn.ModuleList(nn.Linear(12, 8, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        for index, (gate, up, down) in enumerate(zip(self.gates, self.ups, self.downs, strict=True)):
            normed = x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + 1e-6) * self.scale[index]
            x = x + down(F.silu(gate(normed)) * up(normed))
        y: Tensor = self.head(x)
        return y


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 5))


class TwoInputs(nn.Module):
    """An image and a row of numbers, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.row = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(14, 10), nn.ReLU(), nn.Linear(10, 5))

    def forward(self, image: Tensor, row: Tensor) -> Tensor:
        y: Tensor = self.head(torch.cat((self.image(image), self.row(row)), dim=1))
        return y


class TwoOutputs(nn.Module):
    """Classes and a map from one trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU())
        self.classes = nn.Linear(8, 5)
        self.map = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(x)
        return self.classes(features.mean(dim=(2, 3))), self.map(features).sigmoid()


class Shared(nn.Module):
    """One layer used twice in a row and one tower used for two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(6, 10), nn.ReLU())
        self.again = nn.Linear(10, 10)
        self.head = nn.Linear(20, 5)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        one, two = self.tower(left), self.tower(right)
        one = torch.tanh(self.again(torch.tanh(self.again(one))))
        y: Tensor = self.head(torch.cat((one, two), dim=1))
        return y
