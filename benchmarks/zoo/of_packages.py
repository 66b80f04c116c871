"""Networks that timm and torchvision bring, most made smaller. The packages are imported when one is made."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.small import Made, Make

__all__ = ["TIMM", "TORCHVISION"]


def _image(size: int) -> dict[str, Tensor]:
    return {"x": torch.randn(1, 3, size, size)}


def _timm(name: str, size: int = 64, **changed: Any) -> Made:
    from zoo import torchvision_shim  # noqa: F401  (timm imports torchvision)

    import timm  # isort: skip

    return timm.create_model(name, pretrained=False, num_classes=10, **changed), _image(size)


def _patches(name: str, size: int = 64, **changed: Any) -> Made:
    """One whose parameters depend on the image's size."""
    return _timm(name, size, img_size=size, **changed)


def _of_class(module: str, name: str, **given: Any) -> Made:
    """A class of `timm.models.<module>`, for sizes that timm's named models fix. Given strings are of that module."""
    from zoo import torchvision_shim  # noqa: F401

    import timm.models  # isort: skip

    held = getattr(timm.models, module)
    given = {key: getattr(held, value) if isinstance(value, str) else value for key, value in given.items()}
    return getattr(held, name)(num_classes=10, **given), _image(64)


_SMALL = {"embed_dim": 48, "num_heads": 3}
_WINDOWS = {"window_size": 4, "embed_dim": 24}
_MIXER = {"img_size": 64, "num_blocks": 3, "embed_dim": 48}
_GATED = {"block_layer": "SpatialGatingBlock", "mlp_layer": "GatedMlp", "mlp_ratio": 4}
_TINY = {"depths": (1, 1, 2, 1)}

TIMM: Mapping[str, Make] = {
    "mobilenetv4": partial(_timm, "mobilenetv4_conv_small_050"),
    "mobilenetv4_hybrid": partial(_timm, "mobilenetv4_hybrid_medium"),
    "efficientnetv2": partial(_timm, "tf_efficientnetv2_b0"),
    "convnextv2": partial(_timm, "convnextv2_atto", dims=(16, 32, 48, 64), **_TINY),
    "regnety": partial(_timm, "regnety_002"),
    "ghostnetv2": partial(_timm, "ghostnetv2_100"),
    "swin": partial(_patches, "swin_tiny_patch4_window7_224", depths=(2, 2, 2), num_heads=(2, 4, 4), **_WINDOWS),
    "swinv2": partial(_patches, "swinv2_cr_tiny_224", depths=(2, 2), num_heads=(2, 4), **_WINDOWS),
    "deit": partial(_patches, "deit_tiny_distilled_patch16_224", depth=3, **_SMALL),
    "mobilevitv2": partial(_timm, "mobilevitv2_050"),
    "efficientformerv2": partial(_timm, "efficientformerv2_s0", 224),
    "hrnet": partial(_timm, "hrnet_w18_small"),
    "repvit": partial(_timm, "repvit_m0_9"),
    "nfnet": partial(_timm, "eca_nfnet_l0"),
    "eva02": partial(_patches, "eva02_tiny_patch14_224", 56, depth=3, **_SMALL),
    "res2net": partial(_timm, "res2net50_14w_8s"),
    "inception_next": partial(_timm, "inception_next_atto", **_TINY),
    "mixer": partial(_of_class, "mlp_mixer", "MlpMixer", **_MIXER),
    "xcit": partial(_patches, "xcit_nano_12_p16_224", depth=3, embed_dim=48, num_heads=3),
    "edgenext": partial(_timm, "edgenext_xx_small"),
    "pvtv2": partial(_timm, "pvt_v2_b0"),
    "gmlp": partial(_of_class, "mlp_mixer", "MlpMixer", **_MIXER, **_GATED),
    "coatnet": partial(_patches, "coatnet_nano_rw_224"),
    "resnest": partial(_timm, "resnest14d"),
    "sknet": partial(_timm, "skresnet18"),
    "focalnet": partial(_of_class, "focalnet", "FocalNet", embed_dim=24, depths=(1, 1, 1, 1)),
    "cait": partial(_patches, "cait_xxs24_224", depth=2, **_SMALL),
    "mixnet": partial(_timm, "tf_mixnet_s"),
    "mambaout": partial(_timm, "mambaout_femto"),
    "sequencer": partial(_patches, "sequencer2d_s"),
}


class OutOnly(nn.Module):
    """The tensor `out` of a segmentation model's dictionary."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)["out"]


def _vision(name: str, size: int = 64, **changed: Any) -> Made:
    from zoo.torchvision_shim import torchvision

    return torchvision.models.get_model(name, weights=None, num_classes=10, **changed), _image(size)


def _segmentation(name: str) -> Made:
    module, inputs = _vision(name, 96, weights_backbone=None)
    return OutOnly(module), inputs


def _densenet() -> Made:
    from zoo.torchvision_shim import torchvision

    return torchvision.models.DenseNet(8, (2, 3, 3), 16, num_classes=10), _image(64)


TORCHVISION: Mapping[str, Make] = {
    "shufflenetv2": partial(_vision, "shufflenet_v2_x0_5"),
    "deeplabv3": partial(_segmentation, "deeplabv3_mobilenet_v3_large"),
    "lraspp": partial(_segmentation, "lraspp_mobilenet_v3_large"),
    "densenet": _densenet,
    "squeezenet": partial(_vision, "squeezenet1_1"),
    "mnasnet": partial(_vision, "mnasnet0_5"),
    "googlenet": partial(_vision, "googlenet", aux_logits=False, init_weights=False),
}
