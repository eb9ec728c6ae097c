from pathlib import Path

from setuptools import find_packages, setup

version: dict = {}
exec((Path(__file__).parent / 'synthseg_bids' / '__init__.py').read_text(), version)

setup(
    name='synthseg-bids',
    version=version['__version__'],
    description='Contrast-agnostic brain segmentation of BIDS data sets (SynthSeg in PyTorch)',
    long_description=(Path(__file__).parent / 'README.rst').read_text(),
    long_description_content_type='text/x-rst',
    author='The synthseg-bids developers',
    license='Apache-2.0',
    keywords='MRI brain segmentation BIDS SynthSeg PyTorch Nipype',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Environment :: Console',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Medical Science Apps.',
    ],
    python_requires='>=3.10',
    packages=find_packages(include=['synthseg_bids', 'synthseg_bids.*']),
    package_data={
        'synthseg_bids': [
            'py.typed',
            'data/*.json',
            'data/*.tsv',
            'data/models/*',
            'reports/*.css',
            'reports/*.js',
            'reports/templates/*',
        ]
    },
    install_requires=[
        'connected-components-3d',
        'filelock',
        'jinja2',
        'markupsafe',
        'matplotlib',
        'nibabel>=5',
        'nipype>=1.10',
        'numpy',
        'pandas',
        'pathspec',
        'pillow>=10.4',
        'psutil',
        'pybids>=0.16',
        'safetensors',
        'scipy',
        'tomli; python_version < "3.11"',
        'tomli-w',
        'torch>=2.4',
        'tqdm',
    ],
    extras_require={
        'test': [
            'PyYAML',
            'bids-validator-deno',
            'boutiques',
            'h5py',
            'hypothesis',
            'ipyniivue>=2.4',
            'mypy',
            # ComBat of docs/statistics.rst; versions from 2.5 ask for NumPy 1 and pandas 2.
            'neuroHarmonize>=2.4.5,<2.5',
            'neuroCombat',
            'statsmodels',
            'pytest',
            'pytest-xdist',
            'ruff',
        ],
        'demo': ['nilearn'],
        # The pages of make docs.
        'docs': ['furo', 'sphinx', 'sphinx-argparse'],
        # Published weights in Keras' format.
        'official': ['h5py'],
        # A look at the raw dataset before it is segmented.
        'validate': ['bids-validator-deno'],
        # NiiVue, for synthseg view.
        'view': ['ipyniivue>=2.4'],
        # --use-plugin with a YAML file.
        'yaml': ['PyYAML'],
        # What takes the masks and tissue maps of --precomputed: make test-smriprep.
        'smriprep': ['smriprep>=0.19'],
        # A look at what is published: make release-check.
        'release': ['build', 'PyYAML', 'twine'],
        # Comparison with other implementations: make test-parity.
        'parity': ['dipy>=1.12', 'h5py', 'pytest'],
    },
    entry_points={
        'console_scripts': [
            'synthseg = synthseg_bids.cli.main:entry',
            'synthseg-bids = synthseg_bids.app.main:main',
            'synthseg-bids-docker = synthseg_bids.app.docker_wrapper:main',
        ]
    },
)
