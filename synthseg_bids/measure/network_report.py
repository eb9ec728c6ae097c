"""What a network reports of a segmentation besides the labels, for quality control."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NetworkReport:
    """Confidence of a network in one segmentation.

    Attributes
    ----------
    model_sha256 : str
        Checksum of the network's weights. Limits of confidence hold for one network
        (:data:`~synthseg_bids.measure.qc_measures.MODEL_LIMITS`).
    ct : bool
        Whether the scan was clipped to the brain window of CT.
    confidence : (n_channels,) tuple of float
        Mean posterior of each label over its voxels; NaN if it has none, and for background.
    flip_dice : (n_channels,) tuple of float
        Dice of the labels of the straight and the mirrored pass on the network grid; NaN for
        labels that occur in neither. Empty without a mirrored pass.
    unsure_mm3 : (float, float), or None
        Volumes of low confidence in left and in right structures.
    turned : (str, float), or None
        Orientation of the reoriented copy with the highest confidence, and its gain in
        confidence; None if the confidence in the scan as it is was high.
    """

    model_sha256: str = ''
    ct: bool = False
    confidence: tuple[float, ...] = ()
    flip_dice: tuple[float, ...] = ()
    unsure_mm3: tuple[float, float] | None = None
    turned: tuple[str, float] | None = None


#: Report of methods that have no measure of confidence.
NO_REPORT = NetworkReport()
