"""Average precision of boxes and masks."""

from glocal.tasks.detection.metrics import DetectionMetrics


class InstanceMetrics(DetectionMetrics):
    """Metrics of objects with masks; of each, its run lengths are kept, too."""

    kinds = (("mask", "segm"), ("box", "bbox"))

    def rows_of_masks(self, masks, target):
        rles, lengths = masks
        return {
            "found_rles": rles,
            "found_lengths": lengths,
            "objects_rles": target["rles"],
            "objects_lengths": target["lengths"],
        }
