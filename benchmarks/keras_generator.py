"""The generative model of the 2023 reference implementation in TensorFlow, for comparison.

Written from its description, operation by operation as its layers do them: locations of all
voxels of the label map, interpolation by gathering eight corners, velocities integrated at half
the resolution. It runs in an environment of its own, without this package.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

SVF_FRACTION, SVF_STD, SQUARINGS = 0.04, 4.0, 7
BIAS_FRACTION, BIAS_STD, GAMMA_STD, CLIP = 0.025, 0.7, 0.5, 300.0
COARSEST_MM, BLUR_JITTER = 8.0, 1.03


def sides(volume, dtype=tf.float32):
    return tf.cast(volume.shape.as_list()[:3], dtype)


def gather(volume, location):
    """Look up voxels at integer locations ``(..., 3)``, clamped to the edge."""
    x, y, z = tf.unstack(tf.clip_by_value(location, 0, sides(volume, tf.int32) - 1), axis=-1)
    _, n_y, n_z, n = volume.shape.as_list()
    return tf.gather(tf.reshape(volume, [-1, n]), (x * n_y + y) * n_z + z)


def interpolate(volume, location):
    """Interpolate a volume ``(x, y, z, n)`` linearly at locations ``(..., 3)``."""
    low = tf.floor(location)
    share = location - low
    corner = tf.cast(low, tf.int32)
    found = 0.0
    for offset in np.ndindex(2, 2, 2):
        weight = tf.reduce_prod(tf.where(np.array(offset) == 1, share, 1 - share), -1, True)
        found += weight * gather(volume, corner + np.array(offset, np.int32))
    return found


def grid(shape):
    axes = [tf.range(n, dtype=tf.float32) for n in shape]
    return tf.stack(tf.meshgrid(*axes, indexing='ij'), -1)


def resize(volume, shape):
    """Resize linearly, corner anchored."""
    scale = sides(volume) / tf.cast(shape, tf.float32)
    return interpolate(volume, tf.clip_by_value(grid(shape) * scale, 0.0, sides(volume) - 1))


def random_affine():
    """Draw rotations of 15 degrees, scalings of a fifth and shears, as a 3 x 3 matrix."""
    angles = tf.unstack(tf.random.uniform([3], -math.pi / 12, math.pi / 12))
    matrix = tf.linalg.diag(tf.random.uniform([3], 0.8, 1.2))
    shears = tf.unstack(tf.random.uniform([6], -0.012, 0.012))
    matrix @= tf.stack([
        [1.0, shears[0], shears[1]], [shears[2], 1.0, shears[3]], [shears[4], shears[5], 1.0],
    ])  # fmt: skip
    for axis, angle in enumerate(angles):
        c, s = tf.cos(angle), tf.sin(angle)
        rows = [[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]]
        turn = [[rows[(i - axis) % 3][(j - axis) % 3] for j in range(3)] for i in range(3)]
        matrix @= tf.stack([tf.stack(row) for row in turn])
    return matrix


def deform(labels):
    """Sample a label map ``(x, y, z, 1)`` at random locations, nearest neighbour."""
    shape = labels.shape.as_list()[:3]
    small = [math.ceil(n * SVF_FRACTION) for n in shape]
    half = [n // 2 for n in shape]
    std = tf.random.uniform([], 0, SVF_STD)
    displacement = resize(tf.random.normal([*small, 3]) * std, half) / 2**SQUARINGS
    for _ in range(SQUARINGS):
        where = tf.clip_by_value(grid(half) + displacement, 0.0, sides(displacement) - 1)
        displacement += interpolate(displacement, where)
    centre = (sides(labels) - 1) / 2
    moved = grid(shape) - centre + resize(displacement, shape)
    location = tf.linalg.matvec(random_affine(), moved) + centre
    return gather(labels, tf.cast(tf.round(location), tf.int32))


def gaussian(sigma, length=15):
    positions = tf.range(length, dtype=tf.float32) - (length - 1) / 2
    kernel = tf.exp(-0.5 * (positions / sigma) ** 2)
    return kernel / tf.reduce_sum(kernel)


def acquire(image):
    """Blur an image ``(x, y, z, 1)`` and sample it along one axis as thick slices."""
    size = sides(image)
    coarse = tf.one_hot(tf.random.uniform([], 0, 3, tf.int32), 3) > 0
    spacing = tf.where(coarse, tf.random.uniform([], 1, COARSEST_MM), tf.ones(3))
    thickness = 1 + (spacing - 1) * tf.random.uniform([3])
    jitter = BLUR_JITTER ** tf.random.uniform([3], -1, 1)
    sigma = tf.where(thickness > 1, 0.75 * thickness, 0.5) * jitter
    for axis in range(3):
        kernel = tf.reshape(gaussian(sigma[axis]), [-1 if i == axis else 1 for i in range(5)])
        image = tf.nn.conv3d(image[None], kernel, [1] * 5, 'SAME')[0]
    down = tf.maximum(tf.floor(size / spacing), 1)
    step = size / down
    nearest = grid(image.shape.as_list()[:3]) / step  # place of each fine voxel among the slices
    low = tf.clip_by_value(tf.floor(nearest), 0.0, down - 1)
    share, found = tf.clip_by_value(nearest - low, 0.0, 1.0), 0.0
    for offset in np.ndindex(2, 2, 2):
        slices = tf.clip_by_value(low + np.array(offset, np.float32), 0.0, down - 1)
        weight = tf.reduce_prod(tf.where(np.array(offset) == 1, share, 1 - share), -1, True)
        found += weight * gather(image, tf.cast(tf.round(slices * step), tf.int32))
    return found


def build(labels, mirror, n_labels, size):
    """Return a function that makes a synthetic scan and its labels.

    Parameters
    ----------
    labels : (x, y, z) uint8 array
    mirror : (n_labels,) int array
        Label of the other side of each.
    n_labels, size : int
        Side of the crop.
    """
    labels = tf.constant(labels.astype(np.int32))[..., None]
    mirror = tf.constant(mirror, tf.int32)

    @tf.function
    def make():
        shown = deform(labels)
        start = [
            tf.random.uniform([], 0, n - size + 1, tf.int32) for n in labels.shape.as_list()[:3]
        ]
        shown = tf.slice(shown, [*start, 0], [size, size, size, 1])
        if tf.random.uniform([]) < 0.5:
            shown = tf.gather(mirror, tf.reverse(shown, [0]))
        means = tf.random.uniform([n_labels], 0, 250)
        stds = tf.random.uniform([n_labels], 0, 30)
        noise = tf.random.normal([size, size, size, 1])
        image = tf.gather(stds, shown) * noise + tf.gather(means, shown)
        small = [math.ceil(size * BIAS_FRACTION)] * 3
        std = tf.random.uniform([], 0, BIAS_STD)
        image *= tf.exp(resize(tf.random.normal([*small, 1]) * std, [size] * 3))
        image = tf.clip_by_value(image, 0.0, CLIP)
        low, high = tf.reduce_min(image), tf.reduce_max(image)
        image = ((image - low) / (high - low + 1e-7)) ** tf.exp(tf.random.normal([]) * GAMMA_STD)
        return acquire(image), shown

    return make
