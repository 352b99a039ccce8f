"""Words that a base may override in its card: captions to teach with (of any picture, and of scenes), calibration prompts, class words to suggest."""

TEMPLATES = (
    "a photo of a {}", "a close-up photo of a {}", "a photo of one {}", "a good photo of a {}", "a picture of the {}",
    "a rendering of a {}", "a cropped photo of the {}", "a bright photo of the {}", "a photo of my {}", "a depiction of a {}", "an image of a {}",
)  # fmt: skip
SCENES = tuple(
    "a photo of a {} " + where
    for where in (
        "on grass", "in the snow", "on a beach", "in a street", "in a forest", "against the sky", "on water", "on a wooden table",
        "on a sofa", "on a bed", "on a carpet", "in a kitchen", "in a garden", "on a white background", "on a black background",
        "held in a hand", "seen from above", "seen from the side",
    )
)  # fmt: skip
_SUBJECTS = (
    "a mountain lake at dawn", "two people talking in a cafe", "a bowl of ramen", "an old sailing ship", "a crowded street market",
    "a glass of water on a table", "a field of sunflowers", "a red sports car", "a snowy village at night", "a child with a kite",
    "a library full of books", "a lighthouse in a storm", "a plate of fruit", "an astronaut on the moon", "a brick apartment house",
    "a waterfall in the jungle", "a grand piano", "a desert road", "a portrait of an elderly man", "a bridge over a river",
    "a wooden chair", "a city skyline", "a bouquet of roses", "a steam locomotive", "a chess board", "a busy kitchen",
    "a coral reef", "a castle on a hill", "a bicycle against a wall", "a thunderstorm", "a pair of boots", "a dense forest",
)  # fmt: skip
CALIBRATION = tuple(t.format(s) for s in _SUBJECTS for t in ("a photo of {}", "an oil painting of {}"))
CLASS_WORDS = (
    "dog", "cat", "person", "man", "woman", "child", "bird", "horse", "toy", "doll", "teddy bear", "robot", "car", "bicycle",
    "motorcycle", "boat", "house", "chair", "sofa", "lamp", "table", "clock", "vase", "cup", "mug", "bottle", "bowl", "teapot",
    "backpack", "bag", "shoe", "sneaker", "boot", "hat", "glasses", "shirt", "dress", "watch", "ring", "book", "camera", "phone",
    "guitar", "piano", "plant", "flower", "tree", "statue", "painting", "cake", "fruit", "can", "candle", "pillow", "ball",
)  # fmt: skip
