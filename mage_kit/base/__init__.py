"""What every room stands on: errors, files, draws, the registry, processes, progress; nothing of images or models."""
