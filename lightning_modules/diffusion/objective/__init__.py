"""The training objective of diffusion: noise schedules, parameterization, likelihood."""
