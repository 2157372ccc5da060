"""The Triton kernels of aggregated attention: one online softmax over the 3×3 neighbours and the pooled tokens.

Nothing of the size N × 9 or N × P is written, except the gradient of the bias, which has that size itself. The backward
pass computes the attention again from the logarithm of each softmax's denominator. Every gradient is gathered by the
program that owns it, never added by atomics: results repeat bit by bit. Sums are in float32.

In the comments N is the number of positions of the map, P that of the pooled tokens, D the width of a head.
"""

import triton
import triton.language as tl

LOWEST = tl.constexpr(-1.0e30)  # below every logit, but finite: the difference of two is a number


@triton.jit
def _query(q, query_embedding, temperature, b, h, y, x, inside, d, real_d, height, width, pooled,
           qb, qh, qd, qy, qx, D: tl.constexpr):  # fmt: skip
    """Of a block of positions: q, q + embedding, and what the sum is scaled by, split in temperature and log N."""
    at = q + b * qb + h * qh + (y * qy + x * qx)[:, None] + (d * qd)[None, :]
    plain = tl.load(at, mask=inside[:, None] & real_d[None, :], other=0.0).to(tl.float32)
    moved = plain + tl.load(query_embedding + h * D + d, mask=real_d, other=0.0).to(tl.float32)[None, :]
    rows = tl.minimum(y + 1, height - 1) - tl.maximum(y - 1, 0) + 1
    columns = tl.minimum(x + 1, width - 1) - tl.maximum(x - 1, 0) + 1
    length = tl.log(tl.maximum(rows * columns + pooled, 1).to(tl.float32))  # 1: of no position, but a number
    return plain, moved, length, length * tl.load(temperature + h).to(tl.float32)


@triton.jit
def _map_block(pointer, b, h, y, x, inside, d, real_d, sb, sh, sd, sy, sx):
    """(positions, D) of a map in float32, zero where not `inside`."""
    at = pointer + b * sb + h * sh + (y * sy + x * sx)[:, None] + (d * sd)[None, :]
    return tl.load(at, mask=inside[:, None] & real_d[None, :], other=0.0).to(tl.float32)


@triton.jit
def _in_map(y, x, real, height, width):
    return real & (y >= 0) & (y < height) & (x >= 0) & (x < width)


@triton.jit
def _pooled_logits(moved_scaled, pooled_k, pooled_bias, b, h, n, p, d, real_n, real_p, real_d,
                   pkb, pkh, pkd, pkp, bias_h, bias_p, bias_n, TYPE: tl.constexpr):  # fmt: skip
    """(positions, pooled) logits and the (D, pooled) keys."""
    at = pooled_k + b * pkb + h * pkh + (d * pkd)[:, None] + (p * pkp)[None, :]
    keys = tl.load(at, mask=real_d[:, None] & real_p[None, :], other=0.0).to(TYPE)
    at = pooled_bias + h * bias_h + (n * bias_n)[:, None] + (p * bias_p)[None, :]
    bias = tl.load(at, mask=real_n[:, None] & real_p[None, :], other=0.0).to(tl.float32)
    return tl.dot(moved_scaled.to(TYPE), keys, input_precision="ieee") + bias, keys


@triton.jit
def _forward(
    q, k, v, pooled_k, pooled_v, query_embedding, temperature, local_bias, pooled_bias, tokens, token_bias, out, lse,
    heads, height, width, pooled,
    qb, qh, qd, qy, qx, kb, kh, kd, ky, kx, vb, vh, vd, vy, vx, ob, oh, od, oy, ox,
    pkb, pkh, pkd, pkp, pvb, pvh, pvd, pvp, bias_h, bias_p, bias_n,
    D: tl.constexpr, TYPE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    b, h = tl.program_id(1) // heads, tl.program_id(1) % heads
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    y, x = n // width, n % width
    area = height * width
    real = n < area
    d = tl.arange(0, BLOCK_D)
    real_d = d < D
    plain, moved, _length, scale = _query(q, query_embedding, temperature, b, h, y, x, real, d, real_d, height, width,
                                    pooled, qb, qh, qd, qy, qx, D)  # fmt: skip
    moved = moved * scale[:, None]

    highest = tl.full((BLOCK_N,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    mixed = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    positional = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for tap in range(9):
        at_y, at_x = y + tap // 3 - 1, x + tap % 3 - 1
        inside = _in_map(at_y, at_x, real, height, width)
        key = _map_block(k, b, h, at_y, at_x, inside, d, real_d, kb, kh, kd, ky, kx)
        value = _map_block(v, b, h, at_y, at_x, inside, d, real_d, vb, vh, vd, vy, vx)
        logit = tl.sum(moved * key, 1) + tl.load(local_bias + h * 9 + tap).to(tl.float32)
        logit = tl.where(inside, logit, float("-inf"))
        higher = tl.maximum(highest, logit)
        fade, weight = tl.exp(highest - higher), tl.exp(logit - higher)
        total = total * fade + weight
        mixed = mixed * fade[:, None] + weight[:, None] * value
        highest = higher
        token = tl.load(tokens + (h * D + d) * 9 + tap, mask=real_d, other=0.0).to(tl.float32)
        extra = tl.sum(plain * token[None, :], 1) + tl.load(token_bias + h * 9 + tap).to(tl.float32)
        positional += extra[:, None] * value
    for start in range(0, pooled, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        real_p = p < pooled
        logits, _keys = _pooled_logits(moved, pooled_k, pooled_bias, b, h, n, p, d, real, real_p, real_d,
                                  pkb, pkh, pkd, pkp, bias_h, bias_p, bias_n, TYPE)  # fmt: skip
        logits = tl.where(real_p[None, :], logits, float("-inf"))
        higher = tl.maximum(highest, tl.max(logits, 1))
        fade, weights = tl.exp(highest - higher), tl.exp(logits - higher[:, None])
        at = pooled_v + b * pvb + h * pvh + (p * pvp)[:, None] + (d * pvd)[None, :]
        values = tl.load(at, mask=real_p[:, None] & real_d[None, :], other=0.0).to(TYPE)
        total = total * fade + tl.sum(weights, 1)
        mixed = mixed * fade[:, None] + tl.dot(weights.to(TYPE), values, input_precision="ieee")
        highest = higher
    mixed = mixed / total[:, None] + positional
    at = out + b * ob + h * oh + (y * oy + x * ox)[:, None] + (d * od)[None, :]
    tl.store(at, mixed, mask=real[:, None] & real_d[None, :])
    tl.store(lse + tl.program_id(1) * area + n, highest + tl.log(total), mask=real)


@triton.jit
def _query_gradient(
    q, k, v, pooled_k, pooled_v, query_embedding, temperature, local_bias, pooled_bias, tokens, token_bias, lse, g,
    gq, delta, partial,
    heads, height, width, pooled,
    qb, qh, qd, qy, qx, kb, kh, kd, ky, kx, vb, vh, vd, vy, vx, ob, oh, od, oy, ox, gb, gh, gd, gy, gx,
    pkb, pkh, pkd, pkp, pvb, pvh, pvd, pvp, bias_h, bias_p, bias_n,
    D: tl.constexpr, COLUMNS: tl.constexpr,
    TYPE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradient of q, laid out as the result; each block's share of the parameters' gradients, in `partial`:
    9 of the local bias, 9 of the token bias, 9 · D of the tokens, D of the query embedding, 1 of the temperature;
    and delta, the part of the softmax's gradient that all keys of a query share."""
    b, h = tl.program_id(1) // heads, tl.program_id(1) % heads
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    y, x = n // width, n % width
    area = height * width
    real = n < area
    d = tl.arange(0, BLOCK_D)
    real_d = d < D
    plain, moved, length, scale = _query(q, query_embedding, temperature, b, h, y, x, real, d, real_d, height, width,
                                         pooled, qb, qh, qd, qy, qx, D)  # fmt: skip
    scaled = moved * scale[:, None]
    up = _map_block(g, b, h, y, x, real, d, real_d, gb, gh, gd, gy, gx)
    denominator = tl.load(lse + tl.program_id(1) * area + n, mask=real, other=0.0)
    sums = partial + (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * COLUMNS

    shared = tl.zeros((BLOCK_N,), tl.float32)
    gq_block = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for tap in range(9):
        at_y, at_x = y + tap // 3 - 1, x + tap % 3 - 1
        inside = _in_map(at_y, at_x, real, height, width)
        key = _map_block(k, b, h, at_y, at_x, inside, d, real_d, kb, kh, kd, ky, kx)
        value = _map_block(v, b, h, at_y, at_x, inside, d, real_d, vb, vh, vd, vy, vx)
        logit = tl.sum(scaled * key, 1) + tl.load(local_bias + h * 9 + tap).to(tl.float32)
        weight = tl.where(inside, tl.exp(logit - denominator), 0.0)
        token = tl.load(tokens + (h * D + d) * 9 + tap, mask=real_d, other=0.0).to(tl.float32)
        slope = tl.sum(up * value, 1)
        shared += weight * slope
        gq_block += slope[:, None] * token[None, :]
        tl.store(sums + 9 + tap, tl.sum(slope, 0))
        tl.store(sums + 18 + tap * D + d, tl.sum(slope[:, None] * plain, 0), mask=real_d)
    for start in range(0, pooled, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        real_p = p < pooled
        logits, _keys = _pooled_logits(scaled, pooled_k, pooled_bias, b, h, n, p, d, real, real_p, real_d,
                                  pkb, pkh, pkd, pkp, bias_h, bias_p, bias_n, TYPE)  # fmt: skip
        weights = tl.where(real[:, None] & real_p[None, :], tl.exp(logits - denominator[:, None]), 0.0)
        at = pooled_v + b * pvb + h * pvh + (d * pvd)[:, None] + (p * pvp)[None, :]
        values = tl.load(at, mask=real_d[:, None] & real_p[None, :], other=0.0).to(TYPE)
        shared += tl.sum(weights * tl.dot(up.to(TYPE), values, input_precision="ieee"), 1)
    tl.store(delta + tl.program_id(1) * area + n, shared, mask=real)

    g_scaled = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for tap in range(9):
        at_y, at_x = y + tap // 3 - 1, x + tap % 3 - 1
        inside = _in_map(at_y, at_x, real, height, width)
        key = _map_block(k, b, h, at_y, at_x, inside, d, real_d, kb, kh, kd, ky, kx)
        value = _map_block(v, b, h, at_y, at_x, inside, d, real_d, vb, vh, vd, vy, vx)
        logit = tl.sum(scaled * key, 1) + tl.load(local_bias + h * 9 + tap).to(tl.float32)
        weight = tl.where(inside, tl.exp(logit - denominator), 0.0)
        slope = weight * (tl.sum(up * value, 1) - shared)
        g_scaled += slope[:, None] * key
        tl.store(sums + tap, tl.sum(slope, 0))
    for start in range(0, pooled, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        real_p = p < pooled
        logits, keys = _pooled_logits(scaled, pooled_k, pooled_bias, b, h, n, p, d, real, real_p, real_d,
                                     pkb, pkh, pkd, pkp, bias_h, bias_p, bias_n, TYPE)  # fmt: skip
        weights = tl.where(real[:, None] & real_p[None, :], tl.exp(logits - denominator[:, None]), 0.0)
        at = pooled_v + b * pvb + h * pvh + (d * pvd)[:, None] + (p * pvp)[None, :]
        values = tl.load(at, mask=real_d[:, None] & real_p[None, :], other=0.0).to(TYPE)
        slopes = weights * (tl.dot(up.to(TYPE), values, input_precision="ieee") - shared[:, None])
        g_scaled += tl.dot(slopes.to(TYPE), tl.trans(keys), input_precision="ieee")
    gq_block += g_scaled * scale[:, None]
    at = gq + b * ob + h * oh + (y * oy + x * ox)[:, None] + (d * od)[None, :]
    tl.store(at, gq_block, mask=real[:, None] & real_d[None, :])
    tl.store(sums + 18 + 9 * D + d, tl.sum(g_scaled * scale[:, None], 0), mask=real_d)
    tl.store(sums + 18 + 10 * D, tl.sum(tl.sum(g_scaled * moved, 1) * length, 0))


@triton.jit
def _neighbour_gradient(
    q, k, v, query_embedding, temperature, local_bias, tokens, token_bias, lse, delta, g, gk, gv,
    heads, height, width, pooled,
    qb, qh, qd, qy, qx, kb, kh, kd, ky, kx, vb, vh, vd, vy, vx, ob, oh, od, oy, ox, gb, gh, gd, gy, gx,
    D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradients of k and v, laid out as the result: every position gathers from the nine queries that saw it."""
    b, h = tl.program_id(1) // heads, tl.program_id(1) % heads
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    y, x = n // width, n % width
    area = height * width
    real = n < area
    d = tl.arange(0, BLOCK_D)
    real_d = d < D
    key = _map_block(k, b, h, y, x, real, d, real_d, kb, kh, kd, ky, kx)
    value = _map_block(v, b, h, y, x, real, d, real_d, vb, vh, vd, vy, vx)
    gk_block = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    gv_block = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for tap in range(9):
        at_y, at_x = y - (tap // 3 - 1), x - (tap % 3 - 1)  # the query of which this position is neighbour `tap`
        inside = _in_map(at_y, at_x, real, height, width)
        plain, moved, _length, scale = _query(q, query_embedding, temperature, b, h, at_y, at_x, inside, d, real_d,
                                        height, width, pooled, qb, qh, qd, qy, qx, D)  # fmt: skip
        scaled = moved * scale[:, None]
        up = _map_block(g, b, h, at_y, at_x, inside, d, real_d, gb, gh, gd, gy, gx)
        place = tl.program_id(1) * area + at_y * width + at_x
        denominator = tl.load(lse + place, mask=inside, other=0.0)
        shared = tl.load(delta + place, mask=inside, other=0.0)
        logit = tl.sum(scaled * key, 1) + tl.load(local_bias + h * 9 + tap).to(tl.float32)
        weight = tl.where(inside, tl.exp(logit - denominator), 0.0)
        slope = weight * (tl.sum(up * value, 1) - shared)
        gk_block += slope[:, None] * scaled
        token = tl.load(tokens + (h * D + d) * 9 + tap, mask=real_d, other=0.0).to(tl.float32)
        extra = tl.sum(plain * token[None, :], 1) + tl.load(token_bias + h * 9 + tap).to(tl.float32)
        gv_block += (weight + extra)[:, None] * up
    place = b * ob + h * oh + (y * oy + x * ox)[:, None] + (d * od)[None, :]
    tl.store(gk + place, gk_block, mask=real[:, None] & real_d[None, :])
    tl.store(gv + place, gv_block, mask=real[:, None] & real_d[None, :])


@triton.jit
def _pooled_gradient(
    q, pooled_k, pooled_v, query_embedding, temperature, pooled_bias, lse, delta, g, gk, gv,
    heads, height, width, pooled,
    qb, qh, qd, qy, qx, gb, gh, gd, gy, gx, pkb, pkh, pkd, pkp, pvb, pvh, pvd, pvp, bias_h, bias_p, bias_n,
    D: tl.constexpr, TYPE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradients of pooled keys and values, (B, heads, D, P) without gaps: a block of tokens, from all queries."""
    b, h = tl.program_id(1) // heads, tl.program_id(1) % heads
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    real_p = p < pooled
    area = height * width
    d = tl.arange(0, BLOCK_D)
    real_d = d < D
    at = pooled_v + b * pvb + h * pvh + (d * pvd)[:, None] + (p * pvp)[None, :]
    value = tl.load(at, mask=real_d[:, None] & real_p[None, :], other=0.0).to(TYPE)
    gk_block = tl.zeros((BLOCK_P, BLOCK_D), tl.float32)
    gv_block = tl.zeros((BLOCK_P, BLOCK_D), tl.float32)
    for start in range(0, area, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        y, x = n // width, n % width
        real = n < area
        _plain, moved, _length, scale = _query(q, query_embedding, temperature, b, h, y, x, real, d, real_d,
                                               height, width, pooled, qb, qh, qd, qy, qx, D)  # fmt: skip
        scaled = moved * scale[:, None]
        up = _map_block(g, b, h, y, x, real, d, real_d, gb, gh, gd, gy, gx).to(TYPE)
        place = tl.program_id(1) * area + n
        denominator = tl.load(lse + place, mask=real, other=0.0)
        shared = tl.load(delta + place, mask=real, other=0.0)
        logit, _keys = _pooled_logits(scaled, pooled_k, pooled_bias, b, h, n, p, d, real, real_p, real_d,
                                  pkb, pkh, pkd, pkp, bias_h, bias_p, bias_n, TYPE)  # fmt: skip
        weight = tl.where(real[:, None] & real_p[None, :], tl.exp(logit - denominator[:, None]), 0.0)
        slope = weight * (tl.dot(up, value, input_precision="ieee") - shared[:, None])
        gv_block += tl.dot(tl.trans(weight.to(TYPE)), up, input_precision="ieee")
        gk_block += tl.dot(tl.trans(slope.to(TYPE)), scaled.to(TYPE), input_precision="ieee")
    place = (tl.program_id(1) * D + d[None, :]) * pooled + p[:, None]
    tl.store(gk + place, gk_block, mask=real_p[:, None] & real_d[None, :])
    tl.store(gv + place, gv_block, mask=real_p[:, None] & real_d[None, :])


@triton.jit
def _bias_gradient(
    q, pooled_k, pooled_v, query_embedding, temperature, pooled_bias, lse, delta, g, g_bias,
    batch, heads, height, width, pooled,
    qb, qh, qd, qy, qx, gb, gh, gd, gy, gx, pkb, pkh, pkd, pkp, pvb, pvh, pvd, pvp, bias_h, bias_p, bias_n,
    D: tl.constexpr, TYPE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradient of the pooled bias, (heads, P, N) without gaps: a block of it, over all samples."""
    h = tl.program_id(2)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    y, x = n // width, n % width
    area = height * width
    real, real_p = n < area, p < pooled
    d = tl.arange(0, BLOCK_D)
    real_d = d < D
    total = tl.zeros((BLOCK_N, BLOCK_P), tl.float32)
    for b in range(batch):
        _plain, moved, _length, scale = _query(q, query_embedding, temperature, b, h, y, x, real, d, real_d,
                                               height, width, pooled, qb, qh, qd, qy, qx, D)  # fmt: skip
        scaled = moved * scale[:, None]
        up = _map_block(g, b, h, y, x, real, d, real_d, gb, gh, gd, gy, gx).to(TYPE)
        place = (b * heads + h) * area + n
        denominator = tl.load(lse + place, mask=real, other=0.0)
        shared = tl.load(delta + place, mask=real, other=0.0)
        logit, _keys = _pooled_logits(scaled, pooled_k, pooled_bias, b, h, n, p, d, real, real_p, real_d,
                                  pkb, pkh, pkd, pkp, bias_h, bias_p, bias_n, TYPE)  # fmt: skip
        weight = tl.where(real[:, None] & real_p[None, :], tl.exp(logit - denominator[:, None]), 0.0)
        at = pooled_v + b * pvb + h * pvh + (d * pvd)[:, None] + (p * pvp)[None, :]
        value = tl.load(at, mask=real_d[:, None] & real_p[None, :], other=0.0).to(TYPE)
        total += weight * (tl.dot(up, value, input_precision="ieee") - shared[:, None])
    place = (h * pooled + p[None, :]) * area + n[:, None]
    tl.store(g_bias + place, total, mask=real[:, None] & real_p[None, :])
