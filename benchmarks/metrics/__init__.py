"""Metrics from saved detections. Torch-free.

COCO's numbers come from faster-coco-eval. The others, and the bootstrap intervals of all, come from the matches of
`scene`, whose AP at weight one equals COCO's.
"""

EVALUATOR_VERSION = 6
"""Raise it when the same detections give other numbers; stored detections are then evaluated again."""

MAX_DETECTIONS = 100
"""How many detections of an image count: its best ones; all others are left out."""
