"""Training: a recipe resolved into jobs, and one loop that carries out their tasks; `train.train` is the way in."""
