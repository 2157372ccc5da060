"""Pure-PyTorch bias from a table of offsets."""

from torch import Tensor


def offset_bias(table: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    table = take(take(table, rows, 0), columns, 1)  # (H·h, W·w, heads)
    height, keys_down = rows.shape[0], rows.shape[1]
    width, keys_across = columns.shape[0], columns.shape[1]
    table = table.reshape(height, keys_down, width, keys_across, -1)
    return table.permute(4, 0, 2, 1, 3).reshape(-1, height * width, keys_down * keys_across)


def take(x: Tensor, places: Tensor, dim: int) -> Tensor:
    """The places of an axis, or their mixtures."""
    if places.is_floating_point():
        return (x.transpose(dim, -1) @ places.flatten(0, 1).T).transpose(dim, -1)
    return x.index_select(dim, places.flatten())
