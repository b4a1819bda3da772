"""Backbone families: how a row of backbones.yaml becomes torch modules."""

from gcl.models import clip, timm_hf, vista
from gcl.models.base import Built, Family, Graph, Keys

__all__ = ["FAMILIES", "Built", "Family", "Graph", "Keys"]

FAMILIES = {
    "clip": Family(clip.build),
    "timm_hf": Family(timm_hf.build, timm_hf.towers, timm_hf.HEADS),
    "vista": Family(vista.build, vista.towers, vista.HEADS),
}
