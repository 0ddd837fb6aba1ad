"""Masks among pictures: files that say what is where in another picture, and are none themselves."""

import posixpath
import re
from collections import defaultdict
from collections.abc import Sequence

from imagegram.cli import UserError
from imagegram.data.dataset import printable

WORD = r"(masks?|segmentations?|segs?|annotations?|groundtruths?|gts?|trimaps?|depths?|labels?)"
SUFFIX = re.compile(rf"(.+?)[ _.-]+{WORD}$", re.IGNORECASE)  # 007_mask
FOLDER = re.compile(rf"(.*[^a-z])?{WORD}([^a-z].*)?$|.*Segmentation.*", re.IGNORECASE)  # masks, SegmentationClass


def refuse_masks(name: str, root: str, pictures: Sequence[str]) -> None:
    """UserError where pictures are masks by their names: X_mask beside X, or a folder of masks beside one of the same
    files.

    One such pair may be chance: half of the folder's files, or of the pictures with such an ending, must have partners.
    """
    stems: dict[str, list[str]] = defaultdict(list)  # by folder
    for picture in pictures:
        folder, file = posixpath.split(picture)
        stems[folder].append(posixpath.splitext(file)[0])

    # 1) In one folder.
    for folder, own in stems.items():
        known = set(own)
        marked = [stem for stem in own if SUFFIX.match(stem)]
        paired = [stem for stem in marked if (found := SUFFIX.match(stem)) and found[1] in known]
        if len(paired) > 1 and 2 * len(paired) >= len(marked):
            place = printable(posixpath.join(folder, paired[0]))
            raise UserError(
                f"{name} holds {len(paired)} pictures that are named like masks of others, e.g. {place}: move the "
                "masks elsewhere, they would be images of their own"
            )

    # 2) In folders beside each other.
    masks = [folder for folder in stems if FOLDER.match(posixpath.basename(folder))]
    for folder in masks:
        for other in stems.keys() - masks:
            common = set(stems[folder]) & set(stems[other])
            beside = posixpath.dirname(other) == posixpath.dirname(folder)
            if beside and len(common) > 1 and 2 * len(common) >= len(stems[folder]):
                raise UserError(
                    f"{name}: the files of {printable(folder)} bear the names of those in {printable(other)}, like "
                    f"masks: name the pictures with --dataset {root}/{printable(other)}, or, where they are a class "
                    "of their own, rename their folder"
                )
