"""The frozen vision-language model: backbones and their loaders, text tower, prompts, files."""
