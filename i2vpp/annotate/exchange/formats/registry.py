"""All formats. A new one is a module beside this one and a name in the list below."""

from __future__ import annotations

from i2vpp.annotate.exchange.formats.base import Format
from i2vpp.annotate.exchange.formats.coco import COCO
from i2vpp.annotate.exchange.formats.cvat import CVAT
from i2vpp.annotate.exchange.formats.davis import DAVIS
from i2vpp.annotate.exchange.formats.label_studio import LABEL_STUDIO
from i2vpp.annotate.exchange.formats.overlay import OVERLAY
from i2vpp.annotate.exchange.formats.prompts import PROMPTS
from i2vpp.annotate.exchange.formats.rle import RLE
from i2vpp.annotate.exchange.formats.sav import SAV
from i2vpp.annotate.exchange.formats.yolo import YOLO
from i2vpp.annotate.exchange.formats.youtube_vis import YOUTUBE_VIS

FORMATS: dict[str, Format] = {
    one.name: one for one in (SAV, DAVIS, COCO, YOUTUBE_VIS, YOLO, CVAT, LABEL_STUDIO, RLE, PROMPTS, OVERLAY)
}
