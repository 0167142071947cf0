"""Classes of pictograms by their code points, and which pictograms are one picture's variants.

A pictogram is named by its code points in hexadecimal, "1F468-200D-1F33E" for a farmer. Unicode's emoji blocks are
sorted by meaning, so ranges of the first code point give classes; the first range that holds it counts.
"""

from __future__ import annotations

CLASSES = (
    "animals",
    "buildings",
    "clothing",
    "faces",
    "flags",
    "food",
    "hands",
    "hearts",
    "letters",
    "objects",
    "people",
    "plants",
    "science_and_tools",
    "signs",
    "sports_and_games",
    "technology",
    "transport",
    "weather_and_sky",
)

TONES = frozenset(f"{point:X}" for point in range(0x1F3FB, 0x1F400))
_JOINERS = frozenset({"200D", "FE0F"})
_PERSONS = frozenset({"1F468", "1F469", "1F9D1", "1F466", "1F467", "1F9D2", "1F476"})  # man, woman, person, children
_SEXES = frozenset({"2640", "2642"})
_ORIENTATION = "27A1"  # facing right

_RANGES = (
    ("flags", ((0x1F1E6, 0x1F1FF), (0x1F3F3, 0x1F3F4), (0x1F38C, 0x1F38C), (0x1F6A9, 0x1F6A9), (0x1F3C1, 0x1F3C1))),
    (
        "hearts",
        (
            (0x1F48B, 0x1F48C),
            (0x1F491, 0x1F491),
            (0x1F493, 0x1F49F),
            (0x2763, 0x2764),
            (0x1F5A4, 0x1F5A4),
            (0x1F90D, 0x1F90E),
            (0x1F9E1, 0x1F9E1),
            (0x1FA75, 0x1FA77),
        ),
    ),
    (
        "hands",
        (
            (0x261A, 0x261F),
            (0x270A, 0x270D),
            (0x1F446, 0x1F450),
            (0x1F485, 0x1F485),
            (0x1F4AA, 0x1F4AA),
            (0x1F58E, 0x1F596),
            (0x1F64C, 0x1F64C),
            (0x1F64F, 0x1F64F),
            (0x1F90C, 0x1F90F),
            (0x1F918, 0x1F91F),
            (0x1F932, 0x1F933),
            (0x1FAF0, 0x1FAF8),
        ),
    ),
    (
        "faces",
        (
            (0x1F479, 0x1F480),
            (0x1F4A9, 0x1F4A9),
            (0x1F600, 0x1F644),
            (0x1F648, 0x1F64A),
            (0x1F910, 0x1F917),
            (0x1F920, 0x1F925),
            (0x1F927, 0x1F92F),
            (0x1F970, 0x1F97A),
            (0x1F9D0, 0x1F9D0),
            (0x1FAE0, 0x1FAEF),
            (0x2620, 0x2620),
            (0x2639, 0x263B),
        ),
    ),
    (
        "people",
        (
            (0x1F385, 0x1F385),
            (0x1F440, 0x1F445),
            (0x1F463, 0x1F478),
            (0x1F481, 0x1F483),
            (0x1F486, 0x1F487),
            (0x1F574, 0x1F575),
            (0x1F57A, 0x1F57A),
            (0x1F5E3, 0x1F5E3),
            (0x1F645, 0x1F647),
            (0x1F64B, 0x1F64E),
            (0x1F6B6, 0x1F6B6),
            (0x1F6C0, 0x1F6C0),
            (0x1F6CC, 0x1F6CC),
            (0x1F926, 0x1F926),
            (0x1F930, 0x1F937),
            (0x1F977, 0x1F977),
            (0x1F9B0, 0x1F9BF),
            (0x1F9CD, 0x1F9CF),
            (0x1F9D1, 0x1F9DF),
            (0x1FAC0, 0x1FAC6),
        ),
    ),
    (
        "animals",
        (
            (0x1F400, 0x1F43F),
            (0x1F54A, 0x1F54A),
            (0x1F577, 0x1F578),
            (0x1F980, 0x1F9AE),
            (0x1FAB0, 0x1FAB3),
            (0x1FABC, 0x1FABF),
            (0x1FACD, 0x1FACF),
        ),
    ),
    ("plants", ((0x1F331, 0x1F344), (0x1F490, 0x1F490), (0x1F940, 0x1F940), (0x1FAB4, 0x1FABB), (0x2618, 0x2618))),
    ("food", ((0x1F32D, 0x1F330), (0x1F345, 0x1F37F), (0x1F382, 0x1F382), (0x1F942, 0x1F944), (0x1F950, 0x1F96F))),
    ("food", ((0x1F9C0, 0x1F9CB), (0x1FAD0, 0x1FADF), (0x2615, 0x2615))),
    ("weather_and_sky", ((0x1F300, 0x1F32C), (0x2600, 0x2604), (0x2614, 0x2614), (0x26A1, 0x26A1), (0x26C4, 0x26C8))),
    ("weather_and_sky", ((0x1FA90, 0x1FA90), (0x2728, 0x2728), (0x2744, 0x2744), (0x2B50, 0x2B50))),
    ("clothing", ((0x1F451, 0x1F462), (0x1F484, 0x1F484), (0x1F45A, 0x1F462), (0x1F97B, 0x1F97F), (0x1F9E2, 0x1F9E6))),
    ("clothing", ((0x1FA70, 0x1FA74), (0x1FAAD, 0x1FAAD), (0x1F392, 0x1F393), (0x1F576, 0x1F576))),
    (
        "sports_and_games",
        (
            (0x1F004, 0x1F0CF),
            (0x1F380, 0x1F3CA),
            (0x1F3CB, 0x1F3D3),
            (0x1F3F8, 0x1F3FA),
            (0x1F93A, 0x1F93F),
            (0x1F945, 0x1F94F),
            (0x1F9E7, 0x1F9E9),
            (0x1FA80, 0x1FA88),
            (0x265F, 0x2660),
            (0x2654, 0x2667),
            (0x26BD, 0x26BE),
            (0x26F3, 0x26F9),
        ),
    ),
    (
        "transport",
        (
            (0x1F680, 0x1F6A8),
            (0x1F6AA, 0x1F6B5),
            (0x1F6E3, 0x1F6EC),
            (0x1F6F0, 0x1F6FC),
            (0x1F6DD, 0x1F6DF),
            (0x2693, 0x2693),
            (0x26F4, 0x26F5),
            (0x2708, 0x2708),
        ),
    ),
    ("buildings", ((0x1F3D4, 0x1F3F0), (0x1F492, 0x1F492), (0x1F54B, 0x1F54D), (0x1F5FA, 0x1F5FF), (0x26E9, 0x26F2))),
    ("buildings", ((0x1F6D0, 0x1F6D5), (0x1F6D6, 0x1F6D7), (0x26EA, 0x26EA))),
    ("technology", ((0x1F4BB, 0x1F4C0), (0x1F4DE, 0x1F4FF), (0x1F5A5, 0x1F5B2), (0x231A, 0x2328), (0x1F50B, 0x1F50C))),
    ("technology", ((0x23F0, 0x23F3), (0x1F579, 0x1F579), (0x260E, 0x260F))),
    ("science_and_tools", ((0x1F528, 0x1F52E), (0x1F9EA, 0x1F9F2), (0x1FA78, 0x1FA7F), (0x1FA9A, 0x1FA9D))),
    (
        "science_and_tools",
        ((0x2692, 0x2699), (0x26CF, 0x26D3), (0x1F489, 0x1F48A)),
    ),
    ("letters", ((0x0023, 0x0039), (0x00A9, 0x00AE), (0x1F100, 0x1F265), (0x1F520, 0x1F524), (0x2100, 0x214F))),
    ("letters", ((0x24C2, 0x24C2), (0x3000, 0x33FF), (0x1F4AF, 0x1F4AF))),
    ("signs", ((0x2000, 0x2BFF), (0x1F500, 0x1F50A), (0x1F517, 0x1F519), (0x1F51A, 0x1F51F), (0x1F525, 0x1F53D))),
    ("signs", ((0x1F549, 0x1F549), (0x1F54E, 0x1F567), (0x1F6AB, 0x1F6AE), (0x1F6B0, 0x1F6C5), (0x1F7E0, 0x1F7FF))),
)


def class_of(name: str) -> str | None:
    """Return a pictogram's class; None of the set's own additions, which no Unicode range says anything of.

    Args:
        name: Its code points.
    """
    first = int(name.split("-")[0], 16)
    if 0xE000 <= first <= 0xF8FF:
        return None
    if 0x1F1E6 <= first <= 0x1F1FF and "-" not in name:  # half of a flag: a letter in a circle
        return "letters"
    for title, ranges in _RANGES:
        if any(low <= first <= high for low, high in ranges):
            return title
    return "objects"


def base_of(name: str) -> str:
    """Return what a pictogram shares with its variants, so that no variant of a training picture is held out.

    Args:
        name: Its code points, of which tones, sexes and persons are left out.
    """
    apart = TONES | _JOINERS | _SEXES | {_ORIENTATION}
    points = [point for point in name.split("-") if point not in apart]
    rest = [point for point in points if point not in _PERSONS]
    return "-".join(rest) if rest else "persons"
