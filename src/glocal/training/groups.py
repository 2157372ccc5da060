"""Groups of parameters with rates and weight decays of their own, for an optimizer."""

from fnmatch import fnmatchcase

from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from glocal.errors import InvalidValueError
from glocal.training.config import LoopOptions, parameter_rules


def parameter_groups(model: nn.Module, config: LoopOptions) -> list[dict]:
    """The trained parameters, in groups for `create_optimizer_v2`, as the rules of the options say.

    A group has `params`, its `weight_decay`, and `lr_scale`, by which schedulers multiply its learning rate. Where no
    rule names a parameter, they are timm's: norms, biases and what the model excludes do not decay, unless the option
    decay_1d is on, and layer_decay scales the rate. ValueError for a rule that names no parameter.
    """
    without = {} if config.decay_1d else {"no_weight_decay_list": getattr(model, "no_weight_decay", set)()}
    options = {"weight_decay": config.weight_decay, "weight_decay_exclude_1d": not config.decay_1d, **without}
    if config.layer_decay is None:
        groups = param_groups_weight_decay(model, **options)
    else:
        groups = param_groups_layer_decay(model, layer_decay=config.layer_decay, **options)
    usual = {
        parameter: (group.get("lr_scale", 1.0), group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    rules, named = parameter_rules(config.parameter_rules), set()
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        lr, decay = 1.0, None
        for rule in rules:
            if fnmatchcase(name, rule.pattern):
                named.add(rule)
                lr = lr if rule.lr is None else rule.lr
                decay = decay if rule.decay is None else config.weight_decay * rule.decay
        if parameter in usual:  # not frozen
            scale, usual_decay = usual[parameter]
            found.setdefault((scale * lr, usual_decay if decay is None else decay), []).append(parameter)
    for rule in rules:
        if rule not in named:
            raise InvalidValueError(f"--parameter-rules: no parameter of the model is named {rule.pattern!r}")
    return [{"params": group, "lr_scale": scale, "weight_decay": decay} for (scale, decay), group in found.items()]
