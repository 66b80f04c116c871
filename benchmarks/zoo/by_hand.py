"""Networks written by hand that need torch alone: kinds that the packages have no small one of."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.small import Make

__all__ = ["BY_HAND"]


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.lstm = nn.Embedding(50, 24), nn.LSTM(24, 32, 2, batch_first=True, bidirectional=True)
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 5)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        y, (h, _) = self.lstm(self.words(ids))
        return self.head(self.norm(y.mean(1))), h


class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gru, self.head = (
            nn.Conv1d(8, 24, 5, padding=2),
            nn.GRU(24, 32, 2, batch_first=True),
            nn.Linear(32, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(F.gelu(self.conv(x)).transpose(1, 2))[0][:, -1])


class UnetNorms(nn.Module):
    """A U-Net of instance and group norms, reflected borders and transposed convolutions of two kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = self.two(3, 8), self.two(8, 16), self.two(16, 32)
        self.u, self.v = nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 3, 2, 1, 1)
        self.d, self.e, self.head = self.two(32, 16), self.two(16, 8), nn.Conv2d(8, 2, 1)

    @staticmethod
    def two(i: int, o: int) -> nn.Module:
        first = nn.Conv2d(i, o, 3, padding=1, padding_mode="reflect"), nn.InstanceNorm2d(o, affine=True)
        second = nn.Conv2d(o, o, 3, padding=1), nn.GroupNorm(4, o), nn.SiLU()
        return nn.Sequential(*first, nn.LeakyReLU(0.1), *second)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        c = self.c(F.avg_pool2d(b, 2))
        d = self.d(torch.cat([self.u(c), b], 1))
        return torch.sigmoid(self.head(self.e(torch.cat([self.v(d), a], 1))))


class SuperResolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.act = nn.Conv2d(3, 16, 5, padding=2), nn.PReLU(16)
        self.b, self.c = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.a(x))
        y = F.pixel_shuffle(self.c(y + torch.tanh(self.b(y))), 2)
        return torch.clamp(y + F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False), 0, 1)


class SpatialTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        first = nn.Conv2d(1, 8, 7), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(8, 10, 5), nn.MaxPool2d(2), nn.ReLU()
        self.where, self.six = nn.Sequential(*first, nn.AdaptiveAvgPool2d(3)), nn.Linear(90, 6)
        self.convs = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ELU(), nn.Conv2d(8, 16, 3, 2), nn.Hardswish())
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        theta = self.six(self.where(x).flatten(1)).view(-1, 2, 3) + torch.tensor([[1.0, 0, 0], [0, 1, 0]])
        x = F.grid_sample(x, F.affine_grid(theta, x.size(), align_corners=False), align_corners=False)
        return self.head(self.convs(x).amax((2, 3)))


class Gated(nn.Module):
    """WaveNet's layers: dilated causal convolutions, a gate, a residual and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv1d(1, 16, 1), nn.Conv1d(16, 8, 1)
        self.dilated = nn.ModuleList(nn.Conv1d(16, 32, 2, dilation=d) for d in (1, 2, 4, 8))
        self.kept = nn.ModuleList(nn.Conv1d(16, 32, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.first(x), []
        for dilated, kept in zip(self.dilated, self.kept, strict=True):
            value, gate = dilated(F.pad(x, (dilated.dilation[0], 0))).chunk(2, 1)
            more, skip = kept(torch.tanh(value) * torch.sigmoid(gate)).chunk(2, 1)
            x = x + more
            skips.append(skip)
        return self.head(F.relu(sum(skips))).log_softmax(1)


class Points(nn.Module):
    """PointNet: every point by itself, the largest over the points, a learned rotation."""

    def __init__(self) -> None:
        super().__init__()
        self.rotation = nn.Sequential(nn.Conv1d(3, 24, 1), nn.BatchNorm1d(24), nn.ReLU(), nn.AdaptiveMaxPool1d(1))
        self.nine = nn.Linear(24, 9)
        self.each = nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 48, 1))
        self.head = nn.Sequential(nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 6))

    def forward(self, x: Tensor) -> Tensor:
        turned = self.nine(self.rotation(x).flatten(1)).view(-1, 3, 3) + torch.eye(3)
        return self.head(self.each(turned @ x).amax(2))


class Experts(nn.Module):
    """A mixture of experts: the two with the highest score, weighted."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.head = nn.Linear(16, 4), nn.Linear(16, 3)
        self.up, self.down = nn.Parameter(0.2 * torch.randn(4, 16, 32)), nn.Parameter(0.2 * torch.randn(4, 32, 16))

    def forward(self, x: Tensor) -> Tensor:
        best, which = self.router(x).topk(2, -1)
        weights = torch.zeros_like(self.router(x)).scatter(-1, which, best.softmax(-1))
        each = torch.einsum("nti,eih->neth", x, self.up)
        each = torch.einsum("neth,eho->neto", F.silu(each), self.down)
        return self.head(x + torch.einsum("neto,nte->nto", each, weights))


class Graphs(nn.Module):
    """Two graph convolutions over an adjacency matrix, normalized by degree."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        near = (adjacency > 0.6).float() + torch.eye(adjacency.shape[-1])
        scale = near.sum(-1, keepdim=True).rsqrt()
        near = scale * near * scale.transpose(-1, -2)
        return self.two(near @ F.elu(self.one(near @ x))).softmax(-1)


class Video(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(3, 8, 3, padding=1, bias=False), nn.Conv3d(8, 16, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.norm, self.head = nn.BatchNorm3d(8), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.max_pool3d(F.relu(self.norm(self.a(x))), 2))
        return self.head(F.mish(x).mean((2, 3, 4)))


class Generator(nn.Module):
    """DCGAN's: noise to an image by transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        up = [(16, 32, 4, 1, 0), (32, 16, 4, 2, 1), (16, 8, 4, 2, 1)]
        parts = [m for i, o, *r in up for m in (nn.ConvTranspose2d(i, o, *r, bias=False), nn.BatchNorm2d(o), nn.ReLU())]
        self.layers = nn.Sequential(*parts, nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z[:, :, None, None])


class Radiance(nn.Module):
    """NeRF's: sines and cosines of coordinates, a skip, colour and density."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(39, 32), nn.Linear(71, 32), nn.Linear(32, 4)

    def forward(self, points: Tensor) -> Tensor:
        waves = (points[..., None] * 2.0 ** torch.arange(6)).flatten(-2)
        x = torch.cat([points, waves.sin(), waves.cos()], -1)
        y = self.c(F.relu(self.b(torch.cat([F.relu(self.a(x)), x], -1))))
        return torch.cat([torch.sigmoid(y[..., :3]), F.softplus(y[..., 3:])], -1)


class Translator(nn.Module):
    """torch's own encoder and decoder, the decoder causal, attending to both."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target, self.head = nn.Embedding(60, 32), nn.Embedding(60, 32), nn.Linear(32, 60)
        layers = {"dim_feedforward": 64, "batch_first": True, "dropout": 0.0}
        self.encoder = nn.TransformerEncoderLayer(32, 4, activation="gelu", **layers)
        self.decoder = nn.TransformerDecoderLayer(32, 4, norm_first=True, **layers)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        causal = torch.full((target.shape[1], target.shape[1]), float("-inf")).triu(1)
        return self.head(self.decoder(self.target(target), self.encoder(self.source(source)), tgt_mask=causal))


class Retention(nn.Module):
    """Linear attention, by running sums."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.norm, self.head = nn.Linear(16, 48), nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        state = torch.cumsum(k[..., :, None] * v[..., None, :], 1)
        y = (q[..., None, :] @ state).squeeze(-2) / (q * k.cumsum(1)).sum(-1, keepdim=True)
        return self.head(self.norm(y + x))


class Anchors(nn.Module):
    """A detector's head: distances as the mean of a distribution, boxes around anchors, scores."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 36, 3, 2, 1))
        self.register_buffer("steps", torch.arange(8.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.stem(x)
        n, _, h, w = y.shape
        sides, scores = y.flatten(2).split([32, 4], 1)
        near, far = torch.einsum("nbsa,b->nsa", sides.view(n, 8, 4, h * w).softmax(1), self.steps).chunk(2, 1)
        rows, columns = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
        centre = torch.stack([columns, rows]).flatten(1)[None]
        return torch.cat([centre - near, centre + far], 1) * 4, scores.sigmoid()


def _r(*shape: int) -> Tensor:
    return torch.randn(*shape)


BY_HAND: Mapping[str, Make] = {
    "lstm": lambda: (Lstm(), {"ids": torch.randint(0, 50, (2, 15))}),
    "gru": lambda: (Gru(), {"x": _r(1, 8, 40)}),
    "unet_in": lambda: (UnetNorms(), {"x": _r(1, 3, 48, 48)}),
    "superres": lambda: (SuperResolution(), {"x": torch.rand(1, 3, 24, 24)}),
    "stn": lambda: (SpatialTransformer(), {"x": torch.rand(2, 1, 28, 28)}),
    "wavenet": lambda: (Gated(), {"x": _r(1, 1, 48)}),
    "pointnet": lambda: (Points(), {"x": _r(1, 3, 64)}),
    "experts": lambda: (Experts(), {"x": _r(1, 12, 16)}),
    "gcn": lambda: (Graphs(), {"x": _r(1, 14, 8), "adjacency": torch.rand(1, 14, 14)}),
    "video": lambda: (Video(), {"x": _r(1, 3, 6, 20, 20)}),
    "dcgan": lambda: (Generator(), {"z": _r(1, 16)}),
    "nerf": lambda: (Radiance(), {"points": _r(1, 40, 3)}),
    "translator": lambda: (
        Translator(),
        {"source": torch.randint(0, 60, (1, 9)), "target": torch.randint(0, 60, (1, 7))},
    ),
    "retention": lambda: (Retention(), {"x": _r(1, 20, 16)}),
    "anchors": lambda: (Anchors(), {"x": _r(1, 3, 48, 48)}),
}
