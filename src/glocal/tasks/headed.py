"""What tasks with a head of their own have in common: a backbone of four maps, and files that start a training."""

from glocal.errors import InvalidValueError
from glocal.tasks.task import Task


class HeadedTask(Task):
    """A task whose model is a backbone of `glocal.models.dense.dense_backbone` with a head. Its `model_args` have the
    name of the head; they are in exported files, too.
    """

    training_batch = 16
    images_at_once = 1

    def num_outputs(self, class_names):
        return 0

    def backbone(self, name, class_names, pretrained=False, **arguments):
        from glocal.models.dense import dense_backbone

        return dense_backbone(name, pretrained, **arguments)

    def load(self, model, name, path, args):
        from glocal.models.create import load_for_training

        load_for_training(model, args["head"], name, path)

    def refuse_crops(self, options) -> None:
        """Raise ValueError if the options ask for a crop of an image: the task takes whole images."""
        if options.crop_pct is not None or options.crop_mode is not None:
            raise InvalidValueError(f"--crop-pct and --crop-mode are for single labels: {self.name} takes whole images")

    def metadata(self, trained):
        return {**super().metadata(trained), **trained.task_args}
