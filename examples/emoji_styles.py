"""Emoji in five drawing styles: a small image set with domains, made from free packages.

Twelve classes (animal, building, clothing, device, face, food, hand, plant, sky, sport, tool,
vehicle), each emoji drawn by five hands: Noto, Fluent flat, Fluent high contrast, Twemoji,
OpenMoji.

    pip install resvg-py==0.5.0
    python examples/emoji_styles.py OUT

writes ``OUT/all/style/class/code.png`` and, for every style, ``OUT/hold-out-STYLE`` in the same
layout. Use the latter with that style held out: **the same emoji recurs in every style**, so that
in ``all`` the held-out style shows pictures whose twins were trained on. In ``hold-out-STYLE`` the
held-out style keeps a fifth of the emoji, and the other styles the rest. Validation inside the
training styles still shares emoji between styles; it ranks runs, but its level is optimistic.

Needs npm for six archives (15 MB), which are pinned by hash and only read. Licences of the
drawings: Noto Apache-2.0, Fluent MIT, Twemoji CC BY 4.0, OpenMoji CC BY-SA 4.0.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from stockpot.files import atomic_folder
from stockpot.progress import progress
from stockpot.tasks import named_generator

sys.path.insert(0, str(Path(__file__).resolve().parent))
from npm_packages import json_member, pack

EMOJI = (
    "emojibase-data",
    "17.0.0",
    "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
)
STYLES = {
    "noto": (
        "1.2.9",
        "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    ),
    "fluent-emoji-flat": (
        "1.2.6",
        "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    ),
    "fluent-emoji-high-contrast": (
        "1.2.6",
        "sha512-esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8xhIKu3+Nq1byX5w==",
    ),
    "twemoji": (
        "1.2.5",
        "sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
    ),
    "openmoji": (
        "1.2.29",
        "sha512-vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ==",
    ),
}
# Beginnings of Unicode's subgroup names; persons, symbols and flags are left out.
CLASSES = {
    "animal": ("animal-",),
    "building": ("place-building", "place-religious"),
    "clothing": ("clothing",),
    "device": ("phone", "computer", "light-video"),
    "face": ("face-",),
    "food": ("food-", "drink"),
    "hand": ("hand-", "hands"),
    "plant": ("plant-",),
    "sky": ("sky-",),
    "sport": ("sport",),
    "tool": ("tool",),
    "vehicle": ("transport-ground", "transport-water", "transport-air"),
}
TEST_FRACTION = 0.2


def class_of_emoji(emojis: list[dict[str, Any]], subgroups: dict[str, str]) -> dict[str, str]:
    """Code point (hexadecimal, without variation selector) -> class, in Unicode's order."""
    found = {}
    for emoji in emojis:
        subgroup = subgroups.get(str(emoji.get("subgroup")), "")
        for name, beginnings in CLASSES.items():
            if subgroup.startswith(beginnings):
                found[emoji["hexcode"].lower().replace("-fe0f", "")] = name
    return found


def drawings(archive: Path) -> dict[str, str]:
    """Code point -> SVG, for one style."""
    names, icons = json_member(archive, "chars.json"), json_member(archive, "icons.json")
    aliases = icons.get("aliases", {})
    found = {}
    for code, name in names.items():
        icon = icons["icons"].get(aliases.get(name, {}).get("parent", name))
        if icon is not None:
            width = icon.get("width", icons.get("width", 16))
            height = icon.get("height", icons.get("height", 16))
            found[code.replace("-fe0f", "")] = (
                f'<svg xmlns="http://www.w3.org/2000/svg" '
                f'xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">'
                f"{icon['body']}</svg>"
            )
    return found


def test_codes(classes: dict[str, str], seed: int) -> set[str]:
    """A fifth of the emoji of every class; the choice depends on seed and class alone."""
    chosen = set()
    for name in CLASSES:
        codes = sorted(code for code, label in classes.items() if label == name)
        order = named_generator(seed, "emoji", name).permutation(len(codes))
        chosen |= {codes[i] for i in order[: max(1, round(len(codes) * TEST_FRACTION))]}
    return chosen


def render(
    svgs: dict[str, dict[str, str]], classes: dict[str, str], folder: Path, size: int
) -> None:
    """Write ``folder/style/class/code.png``, on white."""
    from resvg_py import svg_to_bytes

    with progress("draw emoji", len(svgs) * len(classes)) as advance:
        for style, pictures in svgs.items():
            for code, label in classes.items():
                path = folder / style / label / f"{code}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(
                    svg_to_bytes(
                        svg_string=pictures[code],
                        width=size,
                        height=size,
                        background="#ffffff",
                        skip_system_fonts=True,
                    )
                )
                advance()


def link_held_out(everything: Path, folder: Path, held_out: str, test: set[str]) -> None:
    """The pictures of ``everything`` again, with test emoji in ``held_out`` and no others there."""
    for path in sorted(everything.rglob("*.png")):
        style, label, _ = path.relative_to(everything).parts
        if (style == held_out) == (path.stem in test):
            place = folder / style / label / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=96, help="side in pixels")
    parser.add_argument("--seed", type=int, default=0, help="which emoji are kept for testing")
    options = parser.parse_args()
    try:
        import resvg_py  # noqa: F401
    except ImportError:
        raise SystemExit("resvg-py is needed: pip install resvg-py==0.5.0") from None
    packages = options.out / "packages"
    base = pack(*EMOJI, packages)
    subgroups = json_member(base, "meta/groups.json")["subgroups"]
    classes = class_of_emoji(json_member(base, "en/data.json"), subgroups)
    svgs = {
        style: drawings(pack(f"@iconify-json/{style}", *pin, packages))
        for style, pin in STYLES.items()
    }
    classes = {
        code: label
        for code, label in classes.items()
        if all(code in pictures for pictures in svgs.values())
    }
    with atomic_folder(options.out / "all", replace=True) as folder:
        render(svgs, classes, folder, options.size)
    test = test_codes(classes, options.seed)
    for style in STYLES:
        with atomic_folder(options.out / f"hold-out-{style}", replace=True) as folder:
            link_held_out(options.out / "all", folder, style, test)
    per_class = {name: sum(label == name for label in classes.values()) for name in CLASSES}
    print(json.dumps({"emoji": len(classes), "test emoji": len(test), "classes": per_class}))


if __name__ == "__main__":
    main()
