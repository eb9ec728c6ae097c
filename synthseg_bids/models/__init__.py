"""The U-Net, its files and model cards, and where models are found by name."""

#: Default model of all commands.
DEFAULT_MODEL = 'default'
#: Network of cortical parcels.
PARCEL_MODEL = 'parcels'
