"""What people bring: chats in the shapes of other tools, read conversation by conversation."""

from engrain.data.sources.found import Brought, Place, Skip
from engrain.data.sources.reading import Found, read
from engrain.data.sources.registry import Shape, shape, shapes

__all__ = ["Brought", "Found", "Place", "Shape", "Skip", "read", "shape", "shapes"]
