"""What tasks for every pixel have in common: a backbone with a head, whole images, and their random changes."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from glocal.tasks.headed import HeadedTask
from glocal.tasks.segmentation.options import range_of_sizes, sides_of

if TYPE_CHECKING:
    import numpy as np

CROP = 512  # pixels of a side, if nothing else is said
LONGEST = 4  # times the shorter side


class DenseTask(HeadedTask):
    """A task of `glocal.models.dense.DenseModel`. Its `Options` are `DenseOptions`; its `model_args` have the head."""

    @abstractmethod
    def head_of(self, options: Any) -> str:
        """The name of the head that the options ask for."""

    @abstractmethod
    def drawn_map(
        self, target: Any, class_names: list[str], args: dict[str, Any]
    ) -> "tuple[np.ndarray, list[list[int]], list[str]]":
        """What pictures show of a target: labels (H, W) with IGNORE, and the colour and the name of each label."""

    # The model

    def model(self, backbone, class_names, head="semantic_fpn", **args):
        from glocal.models.dense import DenseModel
        from glocal.models.heads import HEADS

        chosen, dims = HEADS[head], backbone.feature_info.channels()
        auxiliary = chosen.auxiliary and chosen.auxiliary(dims, len(class_names))
        return DenseModel(backbone, chosen.build(dims, len(class_names)), auxiliary)

    def preprocessing(self, model, options, img_size):
        from glocal.data.preprocessing import Whole
        from glocal.tasks.segmentation.transform import preprocessing

        self.refuse_crops(options)
        crop = img_size or CROP
        shorter, longer = sides_of(options.whole) or (crop, min(8192, LONGEST * crop))
        multiple = options.size_multiple or (32 if self.head_of(options) == "mask2former" else 1)
        whole = Whole(shorter, longer, multiple, options.size_align, antialias=False)
        return preprocessing(model, crop, whole)

    # Training

    def augmentation(self, options, source, preprocessing):
        from glocal.tasks.segmentation.transform import SegmentationAugmentation

        whole = preprocessing.whole
        hflip = source.hflip if options.hflip is None else options.hflip
        return SegmentationAugmentation(
            resize_range=range_of_sizes(options.resize_range),
            scale=(whole.longer, whole.shorter),
            max_class_share=options.max_class_share,
            hflip=0.5 if hflip is None else hflip,
            photometric=options.photometric,
            label_interpolation=options.label_resize,
        )

    def draw_target(self, image, target, class_names, args):
        from glocal.tasks.drawing import beside, with_caption
        from glocal.tasks.segmentation.overlay import legend, on_grey

        labels, colors, names = self.drawn_map(target, class_names, args)
        return with_caption(beside([image, on_grey(image, labels, colors)], 0), legend(labels, colors, names))

    def draw_comparison(self, image, target, result, class_names, args):
        from glocal.tasks.drawing import Entry, beside, with_caption
        from glocal.tasks.segmentation.overlay import legend, on_grey

        labels, colors, names = self.drawn_map(target, class_names, args)
        truth = with_caption(on_grey(image, labels, colors), legend(labels, colors, names))
        panels = {"image": image, "truth": truth, "prediction": result.captioned(image)}
        return beside([with_caption(panel, [Entry(name)], above=True) for name, panel in panels.items()])
