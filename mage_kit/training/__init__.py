"""Training: two stages from one recipe, on lightning-fabric; `run.train` is the way in."""
