"""Image-text pretraining in JAX, and control over what the models learn to associate."""

__version__ = "0.1.0"
