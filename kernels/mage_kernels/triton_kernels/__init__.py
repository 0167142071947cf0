"""The Triton kernels themselves: Triton's language, no Python types. Launched by `mage_kernels.operators`."""
