"""How good is it: metrics, baselines, calibration, thresholds, evaluations."""
