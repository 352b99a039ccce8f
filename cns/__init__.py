"""CNS Studio's core: teach one text-to-image model one concept after another by training its concept neurons alone.

    images -> concept -> masks -> training -> sparse delta -> session;  prompt + session -> image;  session -> figures

README.md, "Where things are", names every module.
"""

from .attention import Heat
from .base import STARTER, Base, load_base
from .concept import AlreadyTaught, Concept, check
from .export import export, load_export
from .generation import GenerateSettings, explain, generate
from .images import load_images, square
from .memory import Memory, remember, silence
from .owning import Change, compared, forget, merge, rename, reorder
from .progress import Progress, TeachEvent
from .regions import PRESETS, Region, load_layout, save_layout
from .scores import Scorer
from .session import Learned, Session
from .teaching import TeachSettings, teach
from .text import check_prompt

__all__ = [
    "PRESETS", "STARTER", "AlreadyTaught", "Base", "Change", "Concept", "GenerateSettings", "Heat", "Learned", "Memory", "Progress",
    "Region", "Scorer", "Session", "TeachEvent", "TeachSettings", "check", "check_prompt", "compared", "explain", "export", "forget",
    "generate", "load_base", "load_export", "load_images", "load_layout", "merge", "remember", "rename", "reorder", "save_layout",
    "silence", "square", "teach",
]  # fmt: skip
