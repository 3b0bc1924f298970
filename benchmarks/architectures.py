"""Small image backbones that timm does not ship, in plain PyTorch.

Written anew from the published architecture descriptions and the layer graphs of the weight files;
no third-party source is copied. Tiniest has no paper: its layout was read from its MIT-licensed
code (ThalesGroup/scio) and written again here. The digit networks are the package's own
(``selector.networks``).
Every model follows the small part of timm's interface that feature extraction and
fine-tuning need:

    forward_features(x)             -> feature map (N, C, H, W)
    forward_head(fmap, pre_logits)  -> pooled vector (pre_logits=True) or logits
    forward(x)                      -> logits if there is a head, else the pooled vector
    num_features                    -> length of the pooled vector
    reset_classifier(n)             -> new ``head`` for n classes (0 removes it)
    get_classifier()                -> the ``head`` module

Several of the checkpoints come from inference formats in which batch normalization was
folded into the convolutions. Those networks therefore have convolutions with bias and no
normalization layers: train() and eval() give the same result.

Inputs are float NCHW, RGB. The mean/std to apply first are in ``models.yaml``.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from selector.networks import mnist_cnn, svhn_cnn, usps_cnn

__all__ = [
    "cifar_resnet",
    "dlib_face_resnet29",
    "mnist_cnn",
    "mobilenet_edgetpu_075",
    "mobilenet_v1",
    "open_nsfw",
    "resnet8",
    "svhn_cnn",
    "tiniest",
    "usps_cnn",
]


# --------------------------------------------------------------------------- building blocks
def pad_same(x, kernel, stride, value=0.0):
    """TensorFlow 'SAME' padding: output size ceil(n / stride), odd pixel at bottom/right."""
    pads = []
    for n in (x.shape[-1], x.shape[-2]):
        total = max((math.ceil(n / stride) - 1) * stride + kernel - n, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value) if any(pads) else x


class SameConv2d(nn.Conv2d):
    """Square convolution with TensorFlow 'SAME' padding and a bias (folded normalization)."""

    def __init__(self, cin, cout, kernel, stride=1, groups=1):
        super().__init__(cin, cout, kernel, stride, padding=0, groups=groups, bias=True)

    def forward(self, x):
        return super().forward(pad_same(x, self.kernel_size[0], self.stride[0]))


class Backbone(nn.Module):
    """Shared head handling; subclasses implement ``forward_features``."""

    def __init__(self, num_features, num_classes):
        super().__init__()
        self.num_features = num_features
        self.num_classes = num_classes

    def _finish(self):
        """Call last in the subclass constructor so that the head is the last state-dict entry."""
        self.head = nn.Linear(self.num_features, self.num_classes) if self.num_classes else nn.Identity()
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
                if m.bias is not None:
                    nn.init.zeros_(m.bias)

    def get_classifier(self):
        return self.head

    def reset_classifier(self, num_classes, global_pool=None):
        self.num_classes = num_classes
        ref = next(self.parameters())
        self.head = (
            nn.Linear(self.num_features, num_classes).to(ref.device, ref.dtype) if num_classes else nn.Identity()
        )

    def forward_features(self, x):
        raise NotImplementedError

    def pool(self, fmap):
        return fmap.mean((2, 3))

    def forward_head(self, fmap, pre_logits=False):
        v = self.pool(fmap)
        return v if pre_logits else self.head(v)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


# --------------------------------------------------------------------------- MobileNet V1
class MobileNetV1(Backbone):
    """Howard et al. 2017, arXiv:1704.04861, table 1; ReLU6, TF padding, folded normalization."""

    PLAN = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)] + [(512, 1)] * 5 + [(1024, 2), (1024, 1)]

    def __init__(self, width=1.0, num_classes=1001):
        def ch(c):
            return max(8, int(c * width))

        super().__init__(ch(1024), num_classes)
        self.stem = SameConv2d(3, ch(32), 3, 2)
        self.blocks, cin = nn.ModuleList(), ch(32)
        for c, stride in self.PLAN:
            self.blocks.append(
                nn.ModuleDict({"dw": SameConv2d(cin, cin, 3, stride, groups=cin), "pw": SameConv2d(cin, ch(c), 1)})
            )
            cin = ch(c)
        self._finish()

    def forward_features(self, x):
        x = F.relu6(self.stem(x))
        for b in self.blocks:
            x = F.relu6(b["pw"](F.relu6(b["dw"](x))))
        return x


# --------------------------------------------------------------------------- MobileNet EdgeTPU
class FusedBottleneck(nn.Module):
    """Full k x k expansion convolution, then linear 1x1 projection."""

    def __init__(self, cin, cout, expand, kernel, stride, residual):
        super().__init__()
        self.expand = SameConv2d(cin, cin * expand, kernel, stride)
        self.project = SameConv2d(cin * expand, cout, 1)
        self.residual = residual

    def forward(self, x):
        y = self.project(F.relu(self.expand(x)))
        return x + y if self.residual else y


class InvertedBottleneck(nn.Module):
    """1x1 expansion, depthwise k x k, linear 1x1 projection."""

    def __init__(self, cin, cout, expand, kernel, stride, residual):
        super().__init__()
        mid = cin * expand
        self.expand = SameConv2d(cin, mid, 1)
        self.dw = SameConv2d(mid, mid, kernel, stride, groups=mid)
        self.project = SameConv2d(mid, cout, 1)
        self.residual = residual

    def forward(self, x):
        y = self.project(F.relu(self.dw(F.relu(self.expand(x)))))
        return x + y if self.residual else y


class MobileNetEdgeTPU075(Backbone):
    """MobileNet-EdgeTPU (Google, 2019), width 0.75; ReLU, TF padding, folded normalization."""

    # kind, out channels, expansion, kernel, stride of the first, how many, first one residual?
    PLAN = (
        (FusedBottleneck, 24, 8, 3, 2, 1, False),
        (FusedBottleneck, 24, 4, 3, 1, 3, True),
        (FusedBottleneck, 40, 8, 3, 2, 1, False),
        (FusedBottleneck, 40, 4, 3, 1, 3, True),
        (InvertedBottleneck, 72, 8, 3, 2, 1, False),
        (InvertedBottleneck, 72, 4, 3, 1, 3, True),
        (InvertedBottleneck, 72, 8, 3, 1, 1, False),
        (InvertedBottleneck, 72, 4, 3, 1, 3, True),
        (InvertedBottleneck, 120, 8, 5, 2, 1, False),
        (InvertedBottleneck, 120, 4, 5, 1, 3, True),
        (InvertedBottleneck, 144, 8, 3, 1, 1, False),
    )

    def __init__(self, num_classes=1001):
        super().__init__(1280, num_classes)
        self.stem = SameConv2d(3, 24, 3, 2)
        self.stem_project = SameConv2d(24, 16, 1)
        blocks, cin = [], 16
        for kind, cout, expand, kernel, stride, n, residual in self.PLAN:
            for _ in range(n):
                blocks.append(kind(cin, cout, expand, kernel, stride, residual))
                cin = cout
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = SameConv2d(cin, 1280, 1)
        self._finish()

    def forward_features(self, x):
        return F.relu(self.conv_head(self.blocks(self.stem_project(F.relu(self.stem(x))))))


# --------------------------------------------------------------------------- CIFAR ResNet-n
class CifarBlock(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.stride, self.extra = stride, cout - cin

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        # option A shortcut: subsample, then zero channels on both sides; no parameters
        s = x[:, :, :: self.stride, :: self.stride]
        if self.extra:
            s = F.pad(s, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))
        return F.relu(s + y)


class CifarResNet(Backbone):
    """He et al. 2015, arXiv:1512.03385, section 4.2: depth 6n+2, widths 16/32/64, option A."""

    def __init__(self, depth=20, num_classes=10):
        super().__init__(64, num_classes)
        if (depth - 2) % 6:
            raise ValueError("depth must be 6n+2")
        n = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[CifarBlock(16, 16, 1) for _ in range(n)])
        self.layer2 = nn.Sequential(CifarBlock(16, 32, 2), *[CifarBlock(32, 32, 1) for _ in range(n - 1)])
        self.layer3 = nn.Sequential(CifarBlock(32, 64, 2), *[CifarBlock(64, 64, 1) for _ in range(n - 1)])
        self._finish()

    def forward_features(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))


# --------------------------------------------------------------------------- ResNet8 (MLPerf Tiny)
class FoldedBlock(nn.Module):
    """Basic block with folded normalization, TF padding and an optional 1x1 shortcut."""

    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1 = SameConv2d(cin, cout, 3, stride)
        self.conv2 = SameConv2d(cout, cout, 3)
        self.shortcut = SameConv2d(cin, cout, 1, stride) if stride != 1 or cin != cout else nn.Identity()

    def forward(self, x):
        return F.relu(self.shortcut(x) + self.conv2(F.relu(self.conv1(x))))


class ResNet8(Backbone):
    """MLPerf Tiny image-classification reference: three stacks of one block, widths 16/32/64."""

    def __init__(self, num_classes=10):
        super().__init__(64, num_classes)
        self.stem = SameConv2d(3, 16, 3)
        self.stack1 = FoldedBlock(16, 16, 1)
        self.stack2 = FoldedBlock(16, 32, 2)
        self.stack3 = FoldedBlock(32, 64, 2)
        self._finish()

    def forward_features(self, x):
        return self.stack3(self.stack2(self.stack1(F.relu(self.stem(x)))))


# --------------------------------------------------------------------------- Tiniest
class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channel axis of an NCHW tensor."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class MixGateBlock(nn.Module):
    """Token mixing on channel quarters (identity, 3x3, 7x7, pooled dilated 7x7), then a gated MLP."""

    def __init__(self, dim, hidden):
        super().__init__()
        q = dim // 4
        self.dw3 = nn.Conv2d(q, q, 3, padding=1, groups=q)
        self.dw7 = nn.Conv2d(q, q, 7, padding=3, groups=q)
        self.dw7d = nn.Conv2d(q, q, 7, padding=9, dilation=3, groups=q)
        self.norm = ChannelNorm(dim)
        self.fc1 = nn.Conv2d(dim, 2 * hidden, 1)
        self.fc2 = nn.Conv2d(hidden, dim, 1)
        self.res_scale = nn.Parameter(torch.ones(1, dim, 1, 1))

    def forward(self, x):
        a, b, c, d = x.chunk(4, 1)
        d = self.dw7d(F.avg_pool2d(d, 3, 1, 1))
        y = self.fc1(self.norm(torch.cat([a, self.dw3(b), self.dw7(c), d], 1)))
        gate, value = y.chunk(2, 1)
        y = self.fc2(torch.tanh(gate.exp()) * gate * value)  # "TanhExp" activation as gate
        return y + self.res_scale * x


class Tiniest(Backbone):
    """97,530-parameter CIFAR-10 net (xvel/cifar10-tiniest): 3 blocks at 48 and 3 at 80 channels."""

    def __init__(self, num_classes=10):
        super().__init__(80, num_classes)
        self.conv1 = nn.Conv2d(3, 48, 3, padding=1)
        self.norm1 = ChannelNorm(48)
        self.stage1 = nn.Sequential(*[MixGateBlock(48, 48) for _ in range(3)])
        self.down = nn.Conv2d(48, 80, 4, stride=2, padding=1, groups=16)
        self.norm2 = ChannelNorm(80)
        self.stage2 = nn.Sequential(*[MixGateBlock(80, 80) for _ in range(3)])
        self._finish()

    def forward_features(self, x):
        x = self.stage1(self.norm1(self.conv1(x)))
        return self.stage2(self.norm2(self.down(x)))


# --------------------------------------------------------------------------- open_nsfw
class ThinBottleneck(nn.Module):
    """ResNet bottleneck (stride in the first 1x1) at half the usual width, folded normalization."""

    def __init__(self, cin, mid, cout, stride, project):
        super().__init__()
        self.project = nn.Conv2d(cin, cout, 1, stride) if project else nn.Identity()
        self.conv1 = nn.Conv2d(cin, mid, 1, stride)
        self.conv2 = nn.Conv2d(mid, mid, 3, padding=1)
        self.conv3 = nn.Conv2d(mid, cout, 1)

    def forward(self, x):
        y = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(y + self.project(x))


class OpenNSFW(Backbone):
    """Yahoo open_nsfw (2016): ResNet-50 "thin", 2 classes [sfw, nsfw].

    Input is RGB in 0..1. Inside: times 255, channels reversed to BGR, minus (104, 117, 123).
    (The published pipeline also resizes to 256x256 bilinear, center-crops 224 and re-encodes
    the crop as JPEG; that part is left to the caller.)
    """

    def __init__(self, num_classes=2):
        super().__init__(1024, num_classes)
        self.register_buffer("mean_bgr", torch.tensor([104.0, 117.0, 123.0]).view(1, 3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3)
        cin, self.stages = 64, nn.ModuleList()
        for mid, n, stride in ((32, 3, 1), (64, 4, 2), (128, 6, 2), (256, 3, 2)):
            self.stages.append(
                nn.Sequential(
                    *[
                        ThinBottleneck(cin if i == 0 else 4 * mid, mid, 4 * mid, stride if i == 0 else 1, i == 0)
                        for i in range(n)
                    ]
                )
            )
            cin = 4 * mid
        self._finish()

    def forward_features(self, x):
        x = x.flip(1) * 255.0 - self.mean_bgr
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(pad_same(x, 3, 2), 3, 2)  # inputs are >= 0, so zero padding is neutral
        for s in self.stages:
            x = s(x)
        return x


# --------------------------------------------------------------------------- dlib face ResNet-29
class DlibBlock(nn.Module):
    """dlib residual block; the down variant halves with an unpadded stride-2 convolution and an
    average-pooled shortcut whose missing channels are zero."""

    def __init__(self, cin, cout, down=False):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, 2 if down else 1, 0 if down else 1)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.down, self.extra = down, cout - cin

    def forward(self, x):
        y = self.conv2(F.relu(self.conv1(x)))
        if self.down:
            x = F.avg_pool2d(x, 2, 2)
            y = F.pad(y, (0, x.shape[3] - y.shape[3], 0, x.shape[2] - y.shape[2]))
            if self.extra:
                x = F.pad(x, (0, 0, 0, 0, 0, self.extra))
        return F.relu(x + y)


class DlibFaceResNet29(Backbone):
    """dlib ``dnn_face_recognition_resnet_model_v1``: 29 conv layers, 256-d pooled features
    (the 128-d metric projection of the original is left out). Affine layers are folded into the
    convolutions. Needs inputs of about 100 pixels or more; native 150."""

    PLAN = (
        ((32, 0),) * 3
        + ((64, 1),)
        + ((64, 0),) * 3
        + ((128, 1), (128, 0), (128, 0), (256, 1), (256, 0), (256, 0), (256, 1))
    )

    def __init__(self, num_classes=0):
        super().__init__(256, num_classes)
        self.stem = nn.Conv2d(3, 32, 7, 2)
        blocks, cin = [], 32
        for cout, down in self.PLAN:
            blocks.append(DlibBlock(cin, cout, bool(down)))
            cin = cout
        self.blocks = nn.Sequential(*blocks)
        self._finish()

    def forward_features(self, x):
        return self.blocks(F.max_pool2d(F.relu(self.stem(x)), 3, 2))


# names of the zoo and of the cards
mobilenet_v1, mobilenet_edgetpu_075, cifar_resnet, resnet8 = MobileNetV1, MobileNetEdgeTPU075, CifarResNet, ResNet8
tiniest, open_nsfw, dlib_face_resnet29 = Tiniest, OpenNSFW, DlibFaceResNet29
