"""Six small networks of distinct kinds that need torch alone. The tests build them too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SMALL", "Made", "Make", "words"]

Made = tuple[nn.Module, dict[str, Tensor]]  # a module, and what it is called with: input name -> value, in order
Make = Callable[[], Made]
MASKED = -1e9  # what masks add, in files as people have them


def words(vocabulary: int = 100, length: int = 12) -> dict[str, Tensor]:
    """Token numbers and their mask, the last three masked out."""
    mask = torch.ones(1, length, dtype=torch.long)
    mask[:, -3:] = 0
    return {"input_ids": torch.randint(3, vocabulary, (1, length)), "attention_mask": mask}


def block(i: int, o: int, kernel: int = 3, stride: int = 1, act: type[nn.Module] = nn.ReLU, **more: Any) -> nn.Module:
    conv = nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=False, **more)
    return nn.Sequential(conv, nn.BatchNorm2d(o), act())


class Residual(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(block(i, o, 3, stride), block(o, o, act=nn.Identity))
        self.short = block(i, o, 1, stride, nn.Identity) if (i, stride) != (o, 1) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.inner(x) + self.short(x))


class Attention(nn.Module):
    """Pre-norm attention and a feed-forward part, with a mask that is added to the scores."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(self.before(x)).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5 + mask
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, width))
        return x + self.feed(self.between(x))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(100, 32), nn.Parameter(torch.randn(1, 12, 32))
        self.layers = nn.ModuleList(Attention() for _ in range(2))
        self.head = nn.Linear(32, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = (1 - attention_mask[:, None, None, :].float()) * MASKED
        x = self.words(input_ids) + self.places
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(x[:, 0])


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(8, 16, 5, padding=2)
        self.lstm = nn.LSTM(16, 12, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(24, 16, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(torch.tanh(self.conv(x)).transpose(1, 2))
        return self.head(self.gru(y)[0][:, -1])


class Squeezed(nn.Module):
    """An inverted residual: expanded, depthwise, its channels weighted, projected."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        wide = 3 * i
        self.wide = nn.Sequential(block(i, wide, 1, act=nn.Hardswish), block(wide, wide, 5, stride, groups=wide))
        self.squeeze, self.excite = nn.Conv2d(wide, 8, 1), nn.Conv2d(8, wide, 1)
        self.narrow, self.kept = block(wide, o, 1, act=nn.Identity), (i, stride) == (o, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.wide(x)
        y = y * F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        y = self.narrow(y)
        return x + y if self.kept else y


class Unet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([block(3, 8), block(8, 16), block(16, 24, act=nn.SiLU)])
        self.right, self.up = nn.Conv2d(24, 16, 3, padding=1), nn.ConvTranspose2d(32, 8, 2, 2)
        self.norm, self.head = nn.GroupNorm(4, 16), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down[0](x)
        b = self.down[1](F.max_pool2d(a, 2))
        c = self.down[2](F.avg_pool2d(b, 2))
        d = self.right(F.interpolate(c, scale_factor=2.0, mode="bilinear", align_corners=False))
        e = self.up(F.leaky_relu(torch.cat([d, b], 1), 0.1))
        return torch.sigmoid(self.head(self.norm(torch.cat([e, a], 1))))


class Pooled(nn.Module):
    """Layers, the mean over the image, and ten classes."""

    def __init__(self, *layers: nn.Module, width: int) -> None:
        super().__init__()
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.layers(x), 1).flatten(1))


def _image(size: int = 32) -> dict[str, Tensor]:
    return {"x": torch.randn(1, 3, size, size)}


SMALL: Mapping[str, Make] = {
    "small_cnn": lambda: (Pooled(block(3, 12), nn.MaxPool2d(2), block(12, 16, 5, 2), width=16), _image()),
    "small_residual": lambda: (Pooled(block(3, 12), Residual(12, 12, 1), Residual(12, 20, 2), width=20), _image()),
    "small_encoder": lambda: (Encoder(), words()),
    "small_recurrent": lambda: (Recurrent(), {"x": torch.randn(1, 8, 10)}),
    "small_squeezed": lambda: (Pooled(block(3, 12), Squeezed(12, 12, 1), Squeezed(12, 16, 2), width=16), _image()),
    "small_unet": lambda: (Unet(), _image()),
}
