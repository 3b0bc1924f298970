"""Sets that no choice was made on: members, weights, margins and rates were settled before its scores were compared.

The encoders, the protocol and the budget are those of the images. Its tables have ``held_out_`` before their names, so
that nothing that reads the image suite sees it.
"""

from __future__ import annotations

from benchmarks.suite.image_suite import ImageSuite


class HeldOutSuite(ImageSuite):
    """See ``suites.Suite``."""

    sets = ("coco128_crops", "camvid_tiles")
    prefix = "held_out_"


SUITE = HeldOutSuite()
