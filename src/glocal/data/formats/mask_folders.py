"""Folders of images and of masks: any pair of them, and the layouts of ADE20K, Cityscapes and PASCAL VOC."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glocal.data import mask_classes, raster
from glocal.data.class_lists import ClassList, cityscapes, class_list, file_beside, read_class_list, voc
from glocal.data.groups import groups_of_files
from glocal.data.image import UnreadableImageError, is_image_name, is_strict
from glocal.data.mask_classes import about_classes, coded
from glocal.data.mask_pairs import IMAGES, MASKS, Pair, Part, paired
from glocal.data.mask_sizes import are_masks, check_sizes
from glocal.data.masks import MaskFile, mask_kind, nodata_of
from glocal.data.names import split_of
from glocal.data.raster import Raster
from glocal.data.samples import DataSource, Opening, Samples
from glocal.data.splits import fingerprint, hold_out, hold_out_again, refuse_to_draw
from glocal.data.walk import entries, is_folder
from glocal.errors import InvalidValueError, MissingPathError, NotAFolderError
from glocal.wording import counted, quoted, shown

ARGS = ("images", "masks", "classes", "bands", *mask_classes.ARGS)


def matches(data: str) -> bool:
    """Whether there are pairs of images and masks. Of a few pairs, the heads of the files are read.

    Two folders of a classification may be called images and masks, too: half of their files must fit together by their
    names, and `are_masks` must say so.
    """
    root = Path(data)
    if _is_known(root):
        return True
    pairs = _pairs_of(root)
    return bool(pairs) and are_masks(root, pairs)


def _is_known(root: Path) -> bool:
    return root.is_dir() and (_is_cityscapes(root) or _is_voc(root))


def _pairs_of(root: Path) -> "list[Pair]":
    """The pairs of a folder if more of its files fit together by their names than not; else none."""
    try:
        parts = _layout(root, {}).parts.values() if root.is_dir() else ()
    except (ValueError, OSError):
        return []
    pairs = [pair for part in parts for pair in part.pairs]
    alone = sum(min(len(part.images_alone), len(part.masks_alone)) for part in parts)
    if len(pairs) <= alone:
        return []
    return pairs


class _ByNames:
    """The same where segmentation is asked for (--task): names that fit are enough."""

    ARGS = ARGS
    ONLY_ASKED = True

    def matches(self, data: str) -> bool:
        return _is_known(Path(data)) or bool(_pairs_of(Path(data)))

    def open_training(self, data: str, how: Opening) -> DataSource:
        return open_training(data, how)

    def open_evaluation(self, data: str, how: Opening, held_out: dict | None) -> DataSource:
        return open_evaluation(data, how, held_out)


BY_NAMES = _ByNames()


def claims(data: str, args: Mapping[str, Any]) -> bool:
    """Whether arguments say that a folder holds folders of masks; one of shards alone holds none."""
    return not set(args).isdisjoint(ARGS) and Path(data).is_dir() and any(map(is_folder, entries(data)))


def open_training(data: str, how: Opening) -> DataSource:
    """Open the pairs of the parts train and val, or of one part, which is then divided; see `open_for_training`."""
    root = Path(data)
    layout = _layout(root, how.args)
    if set(layout.parts) == {"val"}:
        raise MissingPathError(f"{root} has a part to validate on and none to train on")
    if "val" in layout.parts:
        refuse_to_draw(data, how, "it has a validation part")
        return _source(root, layout, how.args)
    source = _source(root, replace(layout, parts={"all": layout.first}), how.args)
    samples = source.splits["all"]
    if len(samples) < 2:
        raise InvalidValueError(f"{root} holds a single image with a mask, so that none can be held out")
    names = _names(root, samples)
    groups = None if how.group is None else groups_of_files(str(root), names, how.group)
    return hold_out(source, how, fingerprint(names), groups, strata=[0] * len(names))


def open_evaluation(data: str, how: Opening, held_out: dict | None) -> DataSource:
    """Open the parts that there are; see `open_for_evaluation`."""
    root = Path(data)
    layout = _layout(root, how.args)
    if len(layout.parts) > 1 or "val" in layout.parts:
        return _source(root, layout, how.args)
    source = _source(root, replace(layout, parts={"all": layout.first}), how.args)
    if held_out and held_out["files"] == fingerprint(_names(root, source.splits["all"])):
        note = f"{root} is the folder of the training: its split 'val' is what was held out then"
        return hold_out_again(source, held_out).with_notes(note)
    return source


@dataclass(frozen=True)
class _Layout:
    """How a folder is divided. classes: those that the layout implies."""

    parts: dict[str, Part]
    notes: list[str]
    classes: ClassList | None = None

    @property
    def first(self) -> Part:
        return self.parts.get("train") or next(iter(self.parts.values()))


def _layout(root: Path, args: Mapping[str, Any]) -> _Layout:
    if not root.is_dir():
        raise NotAFolderError(f"{root} is a file: give the folder that holds the images and the masks")
    for name in ("images", "masks"):
        if not isinstance(args.get(name, ""), str):
            raise InvalidValueError(f"{name} must be the name of a folder in {root}, got {shown(args[name])}")
    if not {"images", "masks"} & set(args):
        if _is_cityscapes(root):
            return _cityscapes(root)
        if _is_voc(root):
            return _voc(root)
    notes: list[str] = []
    halves = _halves(root, args)
    if halves is not None:
        places = _divided(root, *halves, notes)
    else:
        places = {}
        for name, split in _splits_in(root).items():
            halves = _halves(root / name, args)
            if halves is not None:
                _add_place(places, split, halves, root)
    if not places:
        raise MissingPathError(
            f"{root} holds no folder of images beside one of masks: call them 'images' and 'masks', or say their names "
            "with --data-args '{images: NAME, masks: NAME}'"
        )
    _val_of_test(places, root, notes)
    parts = {split: paired(*halves, notes) for split, halves in places.items()}
    return _Layout(_with_pairs(parts, places), notes)


def _is_cityscapes(root: Path) -> bool:
    return (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir()


def _is_voc(root: Path) -> bool:
    return all((root / name).is_dir() for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"))


def _cityscapes(root: Path) -> _Layout:
    notes: list[str] = []
    places: dict[str, tuple[Path, Path]] = {}
    for name, split in _splits_in(root / "leftImg8bit").items():
        if split != "test" and (root / "gtFine" / name).is_dir():  # the masks of test are not published
            _add_place(places, split, (root / "leftImg8bit" / name, root / "gtFine" / name), root)
    if not places:
        raise MissingPathError(f"{root} holds no train or val in both leftImg8bit and gtFine")
    for suffix in ("_gtFine_labelIds", "_gtFine_labelTrainIds"):
        parts = {split: paired(*halves, notes, "_leftImg8bit", suffix) for split, halves in places.items()}
        if any(part.pairs for part in parts.values()):
            break
    return _Layout(_with_pairs(parts, places), notes, cityscapes("Train" in suffix))


def _voc(root: Path) -> _Layout:
    notes: list[str] = []
    part = paired(root / "JPEGImages", root / "SegmentationClass", notes, "", "")
    pairs = {Path(pair.image).stem: pair for pair in part.pairs}
    lists = {file.stem: file for file in sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))}
    parts = {}
    for split, names in (("train", ("train",)), ("val", ("val", "test"))):
        file = next((lists[name] for name in names if name in lists), None)
        if file is not None:
            stems = file.read_text(encoding="utf-8", errors="replace").split()
            missing = [stem for stem in stems if stem not in pairs]
            found = [pairs[stem] for stem in dict.fromkeys(stems) if stem in pairs]
            parts[split] = Part(found, [str(root / "JPEGImages" / stem) for stem in missing], [])
    if not parts:
        parts["all"] = replace(part, images_alone=[])
        notes.append(f"{root}: ImageSets/Segmentation has neither train.txt nor val.txt; all pairs are taken")
    places = {split: (root / "JPEGImages", root / "SegmentationClass") for split in parts}
    return _Layout(_with_pairs(parts, places), notes, None if file_beside(root) else voc())


def _splits_in(place: Path) -> dict[str, str]:
    """The folders in a folder that are named like a part, and which."""
    named = {entry.name: split_of(entry.name) for entry in entries(place) if is_folder(entry)}
    return {name: split for name, split in named.items() if split}


def _add_place(places: dict[str, tuple[Path, Path]], split: str, halves: tuple[Path, Path], root: Path) -> None:
    if split in places:
        raise InvalidValueError(f"{root} has two parts named like {split}: {places[split][0]} and {halves[0]}")
    places[split] = halves


def _halves(place: Path, args: Mapping[str, Any]) -> tuple[Path, Path] | None:
    """The folders of images and of masks in a folder, by the names that are given or known."""
    folders = [entry.name for entry in entries(place) if is_folder(entry)]
    found = []
    for half, known in (("images", IMAGES), ("masks", MASKS)):
        if half in args:
            given = place / args[half]
            names = [args[half]] if given.is_dir() else []
        else:
            names = [name for name in folders if name.lower() in known]
        if len(names) > 1:
            raise InvalidValueError(
                f"{place} has {quoted(names)}, each named like a folder of {half}: say which with "
                f"--data-args '{{{half}: NAME}}'"
            )
        found += [place / name for name in names]
    return (found[0], found[1]) if len(found) == 2 else None


def _divided(root: Path, images: Path, masks: Path, notes: list[str]) -> dict[str, tuple[Path, Path]]:
    """The two halves, or those of their parts where both have folders called train, val or the like."""
    of_images, of_masks = _splits_in(images), _splits_in(masks)
    if not of_images:
        return {"all": (images, masks)}
    places: dict[str, tuple[Path, Path]] = {}
    for name, split in of_images.items():
        same = [other for other, of_mask in of_masks.items() if of_mask == split]
        if len(same) > 1:
            raise InvalidValueError(f"{masks} has two parts named like {split}: {quoted(same)}")
        if same:
            _add_place(places, split, (images / name, masks / same[0]), root)
        elif split == "test":
            notes.append(f"{root}: left out {images.name}/{name}, which has no masks")
        else:
            raise MissingPathError(f"{masks} has no folder for the masks of {images / name}")
    beside = [entry.name for entry in entries(images) if is_folder(entry) and entry.name not in of_images]
    loose = sum(is_image_name(entry.name) for entry in entries(images) if not is_folder(entry))
    if beside or loose:
        what = [quoted(beside)] if beside else []
        what += [counted(loose, "image")] if loose else []
        notes.append(f"{images}: left out {' and '.join(what)} beside the parts")
    return places


def _val_of_test(places: dict[str, tuple[Path, Path]], root: Path, notes: list[str]) -> None:
    if "test" in places and "val" not in places:
        places["val"] = places["test"]
        notes.append(f"{root}: validated on the part 'test'")
    elif "test" in places:
        notes.append(f"{root}: left out the part 'test'")
    places.pop("test", None)


def _with_pairs(parts: dict[str, Part], places: dict[str, tuple[Path, Path]]) -> dict[str, Part]:
    for split, part in parts.items():
        if part.pairs:
            continue
        images, masks = places[split]
        for place, alone, what in ((images, part.images_alone, "images"), (masks, part.masks_alone, "masks")):
            if not alone:
                raise InvalidValueError(f"{place} holds no {what}")
        raise InvalidValueError(
            f"no image in {images} has a mask of its name in {masks}: the first image is "
            f"{Path(part.images_alone[0]).name!r}, the first mask {Path(part.masks_alone[0]).name!r}"
        )
    return parts


def _source(root: Path, layout: _Layout, args: Mapping[str, Any]) -> DataSource:
    notes = list(layout.notes)
    _note_alone(layout, notes)
    known = _known_classes(root, layout, args, notes)
    masks = [pair.mask for pair in layout.first.pairs]
    classes, coding = coded(root, known, masks, _with_nodata(root, known, masks, args, notes), notes)
    check_sizes(root, layout.first.pairs, notes)
    bands = raster.bands_of_files([pair.image for pair in layout.first.pairs], args.get("bands"))
    if bands is not None:
        numbers = ", ".join(map(str, bands.numbers))
        notes.append(f"{root}: {bands} of each image: {numbers}; their colours are not changed in training")
    splits = {
        split: Samples(
            [pair.image if bands is None else Raster(pair.image, bands) for pair in part.pairs],
            [MaskFile(pair.mask, coding) for pair in part.pairs],
        )
        for split, part in layout.parts.items()
    }
    about = about_classes(classes, coding, masks[0])
    return DataSource(
        str(root), list(classes.names), splits, notes=notes, task="segmentation", about=about, bands=bands
    )


def _with_nodata(
    root: Path, known: ClassList | None, masks: Sequence[str], args: Mapping[str, Any], notes: list[str]
) -> Mapping[str, Any]:
    """The arguments, where pixels that the first mask declares to be no data count nowhere."""
    try:
        value = nodata_of(masks[0]) if raster.is_tiff(masks[0]) and mask_kind(masks[0])[0] != "RGB" else None
    except UnreadableImageError:
        return args
    given = args.get("ignore", [])
    ignored = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if value is None or value in ignored:
        return args
    ids = [] if known is None else range(len(known.names)) if known.ids is None else known.ids
    if value in ids:
        notes.append(f"{root}: {value} is a class, although the masks declare it as no data")
        return args
    return {**args, "ignore": [*ignored, value]}


def _note_alone(layout: _Layout, notes: list[str]) -> None:
    """Note, or refuse if `is_strict`, images and masks without their other half."""
    for part in layout.parts.values():
        for alone, what, lacks in (
            (part.images_alone, "image", "a mask"),
            (part.masks_alone, "mask", "an image"),
        ):
            if alone:
                message = f"left out {counted(len(alone), what)} without {lacks}, the first: {alone[0]}"
                if is_strict():
                    raise InvalidValueError(message.replace("left out", "refused with --strict:", 1))
                notes.append(message)


def _known_classes(root: Path, layout: _Layout, args: Mapping[str, Any], notes: list[str]) -> ClassList | None:
    """The classes that the user, a file beside the folders, or the layout tells."""
    if "classes" in args:
        return class_list(args["classes"], root)
    if layout.classes is not None:
        return layout.classes
    file = file_beside(root)
    if file is None:
        return None
    notes.append(f"{root}: the classes are those of {file.name}")
    return read_class_list(file)


def _names(root: Path, samples: Samples) -> list[str]:
    """The names of a folder's images, the same wherever the folder lies."""
    return [Path(str(image)).relative_to(root).as_posix() for image in samples.images]
