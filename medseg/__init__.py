"""medseg: from raw scans to trusted segmentations."""
