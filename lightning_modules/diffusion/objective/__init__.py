"""Training objective of diffusion: noise schedules, parameterization, likelihood."""
