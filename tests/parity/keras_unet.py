"""SynthSeg's U-Net in Keras 2, for comparison; runs in an environment of its own.

    python keras_unet.py WEIGHTS.h5 SCAN.npy POSTERIORS.npy --features N --channels N [--seed N]

With a seed, random weights are drawn and written to WEIGHTS.h5 (as a checkpoint of the whole
model with --whole); without, they are read from it.
"""

from __future__ import annotations

import argparse

import numpy as np

LEVELS = 5


def build(features, channels):
    """Return the model from (x, y, z, 1) scans to (x, y, z, channels) posteriors."""
    from keras import Model, layers

    def convolutions(x, name, n):
        for i in range(2):
            conv = layers.Conv3D(n, 3, padding='same', activation='elu', name=f'{name}_{i}')
            x = conv(x)
        return x

    x = start = layers.Input((None, None, None, 1), name='unet_input')
    skips = []
    for level in range(LEVELS):
        x = convolutions(x, f'unet_conv_downarm_{level}', features * 2**level)
        skips.append(x)
        x = layers.BatchNormalization(epsilon=1e-3, name=f'unet_bn_down_{level}')(x)
        if level < LEVELS - 1:
            x = layers.MaxPooling3D(2, name=f'unet_maxpool_{level}')(x)
    for step, level in enumerate(range(LEVELS - 2, -1, -1)):
        x = layers.UpSampling3D(2, name=f'unet_up_{step}')(x)
        x = layers.Concatenate(name=f'unet_merge_{step}')([skips[level], x])
        x = convolutions(x, f'unet_conv_uparm_{LEVELS + step}', features * 2**level)
        x = layers.BatchNormalization(epsilon=1e-3, name=f'unet_bn_up_{step}')(x)
    x = layers.Conv3D(channels, 1, name='unet_likelihood')(x)
    return Model(start, layers.Softmax(name='unet_prediction')(x))


def draw_weights(model, seed):
    """Set random weights, biases and batch statistics."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        values = []
        for weight in layer.weights:
            if 'kernel' in weight.name:
                limit = np.sqrt(6 / np.prod(weight.shape[:-1]))
                values.append(rng.uniform(-limit, limit, weight.shape))
            elif 'gamma' in weight.name or 'variance' in weight.name:
                values.append(rng.uniform(0.2, 1.5, weight.shape))
            else:
                values.append(rng.uniform(-0.5, 0.5, weight.shape))
        layer.set_weights(values)


def main():
    parser = argparse.ArgumentParser()
    for name in ('weights', 'scan', 'posteriors'):
        parser.add_argument(name)
    parser.add_argument('--features', type=int, required=True)
    parser.add_argument('--channels', type=int, required=True)
    parser.add_argument('--seed', type=int)
    parser.add_argument('--whole', action='store_true')
    args = parser.parse_args()
    model = build(args.features, args.channels)
    if args.seed is not None:
        draw_weights(model, args.seed)
        (model.save if args.whole else model.save_weights)(args.weights)
    else:
        for layer in model.layers:
            layer.set_weights([np.full_like(w, np.nan) for w in layer.get_weights()])
        model.load_weights(args.weights, by_name=True)
        # By name, Keras leaves what it does not find as it was.
        assert not any(np.isnan(w).any() for w in model.get_weights())
    posteriors = model(np.load(args.scan)[None, ..., None], training=False)
    np.save(args.posteriors, posteriors.numpy()[0])


if __name__ == '__main__':
    main()
