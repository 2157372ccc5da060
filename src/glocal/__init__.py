"""Vision backbones that mix global attention and local convolution, behind timm's interface.

Importing the package registers every model with timm: `timm.create_model("transxnet_t")`.
"""

__version__ = "0.1.0"
