"""What a GPU would do, on one that is not there: no tensor may meet one of another device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from heads import write_heads
from labelled_scans import write_dataset
from pretend_gpu import is_on_gpu, pretend_gpu

from synthseg_bids.cli.main import main
from synthseg_bids.inference.engine import Engine
from synthseg_bids.inference.reference import reference_segmenter, segment_as_reference
from synthseg_bids.inference.segmenter import Segmenter
from synthseg_bids.interfaces import CalibrateModel, SynthesizeImage, TrainSynthSeg
from synthseg_bids.labels import channel_labels
from synthseg_bids.models.card import ModelCard, read_card, save_model
from synthseg_bids.models.unet import NetworkConfig, UNet3D
from synthseg_bids.synth.generator import apply
from synthseg_bids.synth.label_maps import find_label_maps, generate, load_label_map
from synthseg_bids.synth.parameters import draw, output_size
from synthseg_bids.synth.presets import PRESETS
from synthseg_bids.training.config import TrainingConfig
from synthseg_bids.training.real_scans import find_pairs, load_pairs
from synthseg_bids.training.supervised import labelled_scan
from synthseg_bids.training.trainer import Trainer

OURS = NetworkConfig(
    features=4, levels=3, norm='instance', norm_placement='conv', decoder_convs=1, skip='add',
    sub_voxels=2, output_features=6,
)  # fmt: skip
PAPER = NetworkConfig(features=4, levels=3)
NETWORKS = [OURS, PAPER]
#: Everything that the generator can do, at once.
ALL = replace(
    PRESETS['synthseg-bids'],
    size=(16, 16, 16),
    crop_jitter=2,
    ventricles=replace(PRESETS['synthseg-bids'].ventricles, probability=1),
    lesions=replace(PRESETS['synthseg-bids'].lesions, probability=1),
    noise=replace(PRESETS['synthseg-bids'].noise, probability=1, rician_probability=1),
    artefacts=replace(PRESETS['synthseg-bids'].artefacts, ghost_probability=1, cut_probability=1),
)


@pytest.fixture
def gpu(monkeypatch):
    """Make the GPU of a block, with so much free memory."""
    return lambda *free_bytes: pretend_gpu(monkeypatch, *free_bytes)


@pytest.fixture
def maps(tmp_path):
    return [load_label_map(path) for path in find_label_maps(write_heads(tmp_path))]


def model(config, path):
    """Write a network of random weights for scans of 1 mm."""
    torch.manual_seed(1)
    network = UNet3D(config)
    card = ModelCard('random', config, 1.0, crop_mm=(24, 24, 24), intensity_weight=0.5)
    assert len(channel_labels()) == config.out_channels
    save_model(path, network, card)
    return path


def test_devices_do_not_mix(gpu):
    here = torch.ones(3)
    with gpu():
        there = torch.ones(3, device='cuda')
        assert {(there + 1).device, here.to('cuda').device} == {torch.device('cuda:0')}
        assert {there.cpu().device, here.device, there.to('cpu').device} == {torch.device('cpu')}
        assert (2 * there[torch.tensor([0, 1])] * torch.tensor(2.0)).is_cuda
        for mix in (
            lambda: here + there,
            lambda: here[there.long()],
            lambda: torch.stack([here, there]),
            lambda: here * there.sum(),
            lambda: torch.stack([here.sum(), there.sum()]),
            lambda: there.index_put_([torch.tensor([0, 1])], here[:2]),
            lambda: torch.rand(3, device='cuda', generator=torch.Generator()),
            lambda: torch.rand(3, generator=torch.Generator('cuda')),
        ):
            with pytest.raises(RuntimeError, match='two devices'):
                mix()
        with pytest.raises(TypeError, match='numpy'):
            there.numpy()
        weight = there.clone().requires_grad_()
        (weight * there).sum().backward()
        assert weight.grad.is_cuda


@pytest.mark.parametrize('downsampling', [1, 2])
def test_synthetic_scans_are_those_of_the_cpu(gpu, maps, downsampling):
    config = replace(ALL, downsampling=downsampling)
    shape = tuple(maps[0].indices.shape)
    noise = torch.randn(output_size(config, shape)[1])
    for seed in range(6):
        parameters = draw(config, shape, torch.Generator().manual_seed(seed))
        image, target = apply(maps[0].indices, parameters, config, noise=noise)
        with gpu():
            there = maps[0].to('cuda').indices
            found = apply(there, parameters, config, noise=noise.to('cuda'))
            assert all(is_on_gpu(tensor) for tensor in found)
            found = [tensor.cpu() for tensor in found]
        # A GPU's labels of coarse voxels are drawn by its own generator; this one has the CPU's.
        torch.testing.assert_close(found[0], image, atol=1e-4, rtol=0)
        assert (found[1] == target).float().mean() > 0.999


@pytest.mark.parametrize('lesion_label', [False, True])
def test_the_generator_does_not_wait_for_the_host(gpu, maps, lesion_label):
    """The parameters of a scan are copied at once, and nothing is asked of the GPU."""
    config = replace(ALL, downsampling=2, lesion_label=lesion_label)
    with gpu() as traffic:
        there = maps[0].to('cuda')
        # Tables of labels are copied once for all scans.
        generate(there, config, torch.Generator().manual_seed(0))
        for seed in range(1, 7):
            traffic.clear()
            generate(there, config, torch.Generator().manual_seed(seed))
            (copied,) = traffic
            assert copied.endswith('to cuda')


def test_a_training_step_asks_for_nothing(gpu, maps):
    config = TrainingConfig(
        network=OURS, generator=ALL, optimizer='muon', steps=9, batch_size=2, wl2_steps=1
    )
    with gpu() as traffic:
        trainer = Trainer(config, maps, (), torch.device('cuda'))
        for _ in range(2):
            trainer.train_step()
        traffic.clear()
        trainer.train_step()
        assert len(traffic) == config.batch_size, traffic
        assert all(line.endswith('to cuda') for line in traffic)


def test_the_pretended_gpu_notes_traffic(gpu):
    with gpu() as traffic:
        there = torch.arange(3.0, device='cuda')
        assert traffic == []
        for step in (
            lambda: there.to('cpu'),
            lambda: there.cpu(),
            lambda: there.sum().item(),
            lambda: bool(there[0] > 0),
            lambda: there[there > 1],
            lambda: there[torch.tensor([0, 1])],
            lambda: there[there.argmax()],
            lambda: there.new_tensor([1.0]),
            lambda: torch.tensor([1.0], device='cuda'),
            lambda: there.copy_(torch.ones(3)),
        ):
            traffic.clear()
            step()
            assert len(traffic) == 1, traffic
        traffic.clear()
        (there + 1).mul_(torch.tensor(2.0))[1:].clamp(0, 1)
        there.masked_fill_(there > 1, 0)
        assert traffic == []


@pytest.mark.parametrize(('network', 'optimizer'), [(OURS, 'muon'), (PAPER, 'adamw')])
def test_training(gpu, maps, tmp_path, network, optimizer):
    config = TrainingConfig(
        network=network, generator=ALL, optimizer=optimizer, steps=3, epoch_steps=3, wl2_steps=1
    )
    losses = []
    with gpu():
        trainer = Trainer(config, maps, maps[:1], torch.device('cuda'))
        trainer.run(lambda trainer, progress: losses.append(progress.loss))
        assert all(is_on_gpu(weight) for weight in trainer.network.parameters())
        assert all(is_on_gpu(weight) for weight in trainer.average.parameters())
        trainer.save(tmp_path / 'checkpoint.pt')
        again = Trainer(replace(config, steps=4), maps, (), torch.device('cuda'))
        again.resume(tmp_path / 'checkpoint.pt')
        again.run(lambda *_: None)
    here = Trainer(config, maps, maps[:1])
    here.run(lambda trainer, progress: losses.append(progress.loss))
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_training_scans_with_references(gpu, tmp_path):
    raw, references = write_dataset(tmp_path)
    scan = labelled_scan(next(iter(load_pairs(find_pairs(raw, {'fs': references})))))
    parameters = draw(ALL, tuple(scan.indices.shape), torch.Generator().manual_seed(1))
    image, target = scan.make(parameters, ALL)
    with gpu():
        found = scan.to('cuda').make(parameters, ALL)
        assert all(is_on_gpu(tensor) for tensor in found)
        found = [tensor.cpu() for tensor in found]
    torch.testing.assert_close(found[0], image, atol=1e-4, rtol=0)
    assert torch.equal(found[1], target)


def test_scans_are_written(gpu, tmp_path):
    maps = write_heads(tmp_path)
    command = ['synthesize', str(maps), str(tmp_path / 'out'), '--preset', 'synthseg-bids']
    with gpu():
        assert main([*command, '--device', 'cuda', '--steps']) == 0
    assert len([*(tmp_path / 'out').iterdir()]) == 3


@pytest.mark.parametrize('network', NETWORKS)
@pytest.mark.parametrize('free_bytes', [64 * 2**30, 6 * 2**20, 2**20])
def test_posteriors_are_those_of_the_cpu(gpu, rng, tmp_path, network, free_bytes):
    """Of a scan that its memory holds at once, and of one that it does not."""
    path = model(network, tmp_path / 'model.safetensors')
    data, affine = rng.random((30, 28, 26), dtype=np.float32), np.diag([1, 1.2, 0.9, 1])
    here = Segmenter(path, 'cpu').segment(data, affine, posteriors=True)
    with gpu(free_bytes):
        segmenter = Segmenter(path, 'auto')
        assert segmenter.device.type == 'cuda'
        there = segmenter.segment(data, affine, posteriors=True, posteriors_1mm=True)
    assert there.device == 'cuda'
    assert there.fallback == ''
    far = np.abs(np.asarray(there.posteriors, float) - np.asarray(here.posteriors, float))
    assert far.mean() < (0.003 if free_bytes > 2**20 else 0.03) * np.ptp(here.posteriors)


@pytest.mark.slow
def test_the_steps_of_the_reference(gpu, rng, tmp_path):
    path = model(PAPER, tmp_path / 'model.safetensors')
    data, affine = rng.random((20, 22, 24), dtype=np.float32), np.eye(4)
    here = segment_as_reference(reference_segmenter(path, 'cpu'), data, affine)
    with gpu():
        there = segment_as_reference(reference_segmenter(path, 'cuda'), data, affine)
    assert (here.labels == there.labels).mean() > 0.999


def test_calibration(gpu, tmp_path):
    maps = write_heads(tmp_path)
    path = model(OURS, tmp_path / 'model.safetensors')
    command = ['calibrate', str(path), str(maps), str(tmp_path / 'out.safetensors')]
    command += ['--fit-on', 'map-0', '--check-on', 'map-1', '--scans', '1', '--device', 'cuda']
    with gpu():
        assert main(command) == 0
    facts = read_card(tmp_path / 'out.safetensors').validation['calibration']
    assert facts['temperature'] > 0


def test_interfaces_compute_there_with_use_gpu(gpu, tmp_path, monkeypatch):
    (tmp_path / 'maps').mkdir()
    first, second, third = (str(path) for path in find_label_maps(write_heads(tmp_path / 'maps')))
    monkeypatch.chdir(tmp_path)
    inputs = {'label_maps': [first], 'size': (16, 16, 16), 'use_gpu': True}
    network, training = {'features': 2, 'levels': 2}, {'steps': 2, 'epoch_steps': 1}
    with gpu():
        samples = SynthesizeImage(**inputs).run().outputs
        trained = TrainSynthSeg(network=network, training=training, **inputs).run().outputs
        calibrated = CalibrateModel(
            in_model=trained.out_model, fit_maps=[second], check_maps=[third], n_scans=1,
            use_gpu=True,
        ).run().outputs  # fmt: skip
    assert nib.load(samples.out_images).shape == (16, 16, 16)
    card = read_card(Path(calibrated.out_model))
    assert card.training['device'] == 'cuda'
    assert card.validation['calibration']['temperature'] == calibrated.temperature


def test_the_network_in_full_precision_is_that_of_the_cpu(gpu):
    for config in NETWORKS:
        torch.manual_seed(0)
        network = UNet3D(config).eval()
        image = torch.rand(1, 1, 16, 16, 16)
        here = Engine(network, torch.device('cpu'), torch.float32).features(image)
        with gpu():
            engine = Engine(network, torch.device('cuda'), torch.float32)
            there = engine.features(image.to('cuda')).cpu()
        torch.testing.assert_close(there, here, atol=1e-4, rtol=1e-4)
