"""CNS Studio's core: teach one text-to-image model one concept after another by training its concept neurons alone.

    images -> concept -> masks -> training -> sparse delta -> session;  prompt + session -> image;  session -> figures

Modules, in reading order: `images`, `text`, `base`, `concept`, `attention`, `selection`, `delta`, `session`, `generation`,
`teaching`, `owning`, `export`, `scores`, `figures`, `store`, `bench`; `starter` makes the embedded base; `ui` is the app; `__main__` the shell.
"""

from .base import STARTER, Base, load_base
from .concept import AlreadyTaught, Concept, check
from .export import export, load_export
from .generation import GenerateSettings, generate
from .images import load_images, square
from .owning import Change, compared, forget, merge, rename, reorder, scaled
from .scores import Scorer
from .session import Learned, Session
from .teaching import Memory, TeachEvent, TeachSettings, remember, silence, teach
from .text import check_prompt

__all__ = [
    "STARTER", "AlreadyTaught", "Base", "Change", "Concept", "GenerateSettings", "Learned", "Memory", "Scorer", "Session", "TeachEvent",
    "TeachSettings", "check", "check_prompt", "compared", "export", "forget", "generate", "load_base", "load_export", "load_images", "merge",
    "remember", "rename", "reorder", "scaled", "silence", "square", "teach",
]  # fmt: skip
