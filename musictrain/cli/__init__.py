"""The doors: LightningCLI for training, and the commands that act on runs."""
