from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from synthseg_bids.models.average import average, describe
from synthseg_bids.models.card import ModelCard
from synthseg_bids.models.unet import NetworkConfig, UNet3D

CONFIG = NetworkConfig(5, 4, levels=3, norm='instance', norm_placement='conv', skip='add')


def network(seed, config=CONFIG):
    torch.manual_seed(seed)
    return UNet3D(config).eval()


def test_one_network_is_its_own_average():
    only = network(0)
    assert average([only]) is only


@pytest.mark.parametrize(
    'config', [CONFIG, NetworkConfig(5, 4, levels=3)], ids=['by direction', 'plain']
)
def test_equal_networks_have_themselves_as_average(config):
    found = average([network(1, config), network(1, config)]).state_dict()
    for name, weight in network(1, config).state_dict().items():
        torch.testing.assert_close(found[name], weight)


def test_lengths_of_normalised_filters_do_not_weigh():
    one, other = network(2), network(3)
    x = torch.rand(1, 1, 16, 16, 16)
    longer = network(3)
    with torch.no_grad():
        for name, weight in longer.named_parameters():
            if '.convs.' in name:
                weight.mul_(4)
    torch.testing.assert_close(
        average([one, longer])(x), average([one, other])(x), atol=1e-3, rtol=1e-3
    )


def test_every_other_weight_is_the_mean():
    one, other = network(4), network(5)
    found = average([one, other])
    expected = (one.likelihood.weight + other.likelihood.weight) / 2
    torch.testing.assert_close(found.likelihood.weight, expected)
    filters = found.down[0].convs[0].weight.flatten(1)
    directions = [
        torch.nn.functional.normalize(n.down[0].convs[0].weight.flatten(1)) for n in (one, other)
    ]
    torch.testing.assert_close(
        torch.nn.functional.normalize(filters), torch.nn.functional.normalize(sum(directions))
    )


def test_other_architectures_are_refused():
    with pytest.raises(ValueError, match='cannot average'):
        average([network(0), network(0, replace(CONFIG, features=6))])


def test_the_card_names_all_networks_and_the_longest_training():
    cards = [
        ModelCard('a', CONFIG, 1.0, sha256='12', training={'steps': 30}),
        ModelCard(
            'b', CONFIG, 1.0, sha256='34', training={'steps': 50, 'started_from': {'steps': 7}}
        ),
    ]
    assert describe(cards) == {'name': 'a + b', 'sha256': '12 + 34', 'steps': 57}
    assert describe(cards[:1]) == {'name': 'a', 'sha256': '12', 'steps': 30}
