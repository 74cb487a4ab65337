"""Loggers beside the run's own, for people who look at their runs in TensorBoard or W&B; both keep to this machine."""
