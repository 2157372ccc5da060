"""Deterministic parameters and inputs for the golden cases.

Every tensor is a pure function of its name and shape, so a case needs no weight file: fill a model whose
state dict uses the *official* key names, run it, and compare with the stored outputs.  `RandomState` streams are
frozen by NumPy, so the values are the same on every machine.
"""

import zlib

import numpy as np

# Parameters whose size says nothing about their scale: position encodings, layer scales, dynamic kernels.
UNIT_SCALE = ("relative_pos_enc", "relative_pos_bias_local")


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float64 value of the state-dict entry `name` (official key) with `shape`."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        return 1.0 + 0.2 * np.abs(noise)
    if "layer_scale" in name and not name.endswith("bias"):
        return 0.1 + 0.02 * noise
    if any(key in name for key in UNIT_SCALE):
        return 0.5 * noise
    if name.endswith("local_unit.weight"):  # IDConv bank (G, C, K, K): a depthwise fan-in of K*K
        return noise / np.sqrt(shape[-1] * shape[-2])
    if "temperature" in name:
        return 1.0 + 0.2 * noise
    if "query_embedding" in name or "learnable_tokens" in name or "learnable_bias" in name:
        return 0.2 * noise
    if name.endswith(".conv.conv3.1.weight"):  # the norm that ends an inverted residual
        return 0.2 + 0.02 * noise
    # Branches added to an un-normalised trunk are kept small, or depth alone would blow the trunk up.
    if name.endswith(".pos_embed.weight") or (name.startswith("blocks.") and name.endswith(".attn.proj.weight")):
        return 0.2 * noise / np.sqrt(np.prod(shape[1:]))
    if len(shape) >= 2:
        return noise / np.sqrt(np.prod(shape[1:]))
    return (1.0 if name.endswith("weight") else 0.0) + 0.1 * noise


def image(batch: int, height: int, width: int, seed: int = 1234) -> np.ndarray:
    """Return the input of a case, float64, shape (batch, 3, height, width)."""
    return np.random.RandomState(seed).standard_normal((batch, 3, height, width))


def probe(shape: tuple[int, ...], seed: int = 4321) -> np.ndarray:
    """Return the fixed weights r of the scalar loss `(logits * r).sum() / batch` used for gradient cases."""
    return np.random.RandomState(seed).standard_normal(shape)


def sample(feature: np.ndarray, count: int = 512) -> np.ndarray:
    """Return `count` evenly spaced values of a feature map, flattened in (B, C, H, W) order."""
    flat = np.ascontiguousarray(feature).reshape(-1)
    return flat[np.arange(count) * (flat.size // count)]
